"""Laws of random sets, and how far from them observed counts may lie."""

from itertools import permutations


def chi_square_bound(freedom: int) -> float:
    """The value that chi-square exceeds once in ten thousand (Wilson and Hilferty, 1931)."""
    return freedom * (1 - 2 / (9 * freedom) + 3.719 * (2 / (9 * freedom)) ** 0.5) ** 3


def chi_square(counts: dict, law: dict) -> float:
    total = sum(counts.values())
    assert set(counts) <= set(law)
    return sum((counts.get(key, 0) - total * p) ** 2 / (total * p) for key, p in law.items())


def successive_law(weight: dict[int, float], n: int) -> dict[tuple, float]:
    """Probability of every set that `n` draws without replacement can make."""
    law: dict[tuple, float] = {}
    for order in permutations(weight, n):
        probability, left = 1.0, sum(weight.values())
        for item in order:
            probability *= weight[item] / left
            left -= weight[item]
        law[tuple(sorted(order))] = law.get(tuple(sorted(order)), 0) + probability
    return law

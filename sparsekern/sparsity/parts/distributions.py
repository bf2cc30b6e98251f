"""Distributions say how many weights each layer keeps. Every distribution returns counts that add up to the total
exactly."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import floor, prod

import numpy as np
import torch

Shape = tuple[int, ...]
Distribution = Callable[[Sequence[Shape], int, torch.Generator | None], list[int]]


def uniform(shapes: Sequence[Shape], total: int, generator: torch.Generator | None = None) -> list[int]:
    """Gives every layer the same density."""
    sizes = [prod(shape) for shape in shapes]
    return apportion(sizes, sizes, total)


def er(shapes: Sequence[Shape], total: int, generator: torch.Generator | None = None) -> list[int]:
    """Gives a density proportional to (in + out) / (in out), of features or channels (SET, Mocanu et al. 2018, eq.
    3)."""
    return _by_density(shapes, total, [Fraction(s[0] + s[1], max(1, s[0] * s[1])) for s in shapes])


def erk(shapes: Sequence[Shape], total: int, generator: torch.Generator | None = None) -> list[int]:
    """Gives a density proportional to the sum over the product of all dimensions of the weight, those of the kernel
    included (RigL, Evci et al. 2020, section 3)."""
    return _by_density(shapes, total, [Fraction(sum(s), max(1, prod(s))) for s in shapes])


def global_random(shapes: Sequence[Shape], total: int, generator: torch.Generator | None = None) -> list[int]:
    """Draws what a uniform choice among all weights of the network leaves in each layer: multivariate
    hypergeometric."""
    seed = int(torch.randint(2**62, (), generator=generator))
    sizes = [prod(shape) for shape in shapes]
    return np.random.default_rng(seed).multivariate_hypergeometric(sizes, total, method="marginals").tolist()


def _by_density(shapes: Sequence[Shape], total: int, densities: Sequence[Fraction]) -> list[int]:
    sizes = [prod(shape) for shape in shapes]
    return apportion([size * density for size, density in zip(sizes, densities, strict=True)], sizes, total)


def apportion(shares: Sequence[float | Fraction], caps: Sequence[int], total: int) -> list[int]:
    """Returns whole numbers proportional to `shares`, none above its cap, that add up to `min(total, sum(caps))`.

    Layers that would exceed their cap get it, and the rest is solved again; what remains of the fractions is rounded
    by largest remainder, the earlier layer first on ties. The arithmetic is exact, so that ties are ties.
    """
    exact = [Fraction(share) for share in shares]
    left = min(total, sum(caps))
    counts = [0] * len(exact)
    free = [i for i, cap in enumerate(caps) if cap > 0]
    quota: dict[int, Fraction] = {}
    while free:
        weight = sum(exact[i] for i in free)
        quota = {i: left * (exact[i] / weight if weight > 0 else Fraction(1, len(free))) for i in free}
        full = [i for i in free if quota[i] >= caps[i]]
        if not full:
            break
        for i in full:
            counts[i] = caps[i]
            left -= caps[i]
        free = [i for i in free if i not in full]
    for i in free:
        counts[i] = floor(quota[i])
    missing = left - sum(counts[i] for i in free)
    for i in sorted(free, key=lambda i: counts[i] - quota[i])[:missing]:
        counts[i] += 1
    return counts


NAMES: dict[str, Distribution] = {"uniform": uniform, "er": er, "erk": erk, "global": global_random}


def by_name(name: str | Distribution) -> Distribution:
    """Looks up a distribution.

    Raises:
        ValueError: no distribution has that name.
    """
    if callable(name):
        return name
    if name not in NAMES:
        raise ValueError(f"distribution must be one of {', '.join(NAMES)}, got {name!r}")
    return NAMES[name]

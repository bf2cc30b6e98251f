"""Random sets of distinct integers: their law."""

import pytest
import torch
from support.laws import chi_square, chi_square_bound, successive_law

from sparsekern import ops


@pytest.mark.parametrize("n", [2, 3])
def test_random_subset_is_uniform(n: int, device: str) -> None:
    counts: dict[tuple, int] = {}
    for seed in range(3000):
        chosen = tuple(ops.random_subset(n, 5, seed, device=device).tolist())
        counts[chosen] = counts.get(chosen, 0) + 1
    law = successive_law(dict.fromkeys(range(5), 1.0), n)
    assert chi_square(counts, law) < chi_square_bound(len(law) - 1)


def test_random_subset_does_not_favour_small_numbers(device: str) -> None:
    """Below 3 * 2**61, where the remainder of 63 random bits would hit the lower third twice as often."""
    size = 3 * 2**61
    chosen = ops.random_subset(3000, size, 0, device=device).cpu()
    thirds = torch.bincount(chosen // 2**61, minlength=3)
    assert chi_square(dict(enumerate(thirds.tolist())), dict.fromkeys(range(3), 1 / 3)) < chi_square_bound(2)

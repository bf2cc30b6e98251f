"""Distributions share out exactly."""

from math import prod

import pytest
import torch

from sparsekern.sparsity.parts import distributions
from sparsekern.topology import nnz_at

SHAPES = [(300, 784), (100, 300), (10, 100)]


@pytest.mark.parametrize("name", list(distributions.NAMES))
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.98, 0.999])
def test_distributions_are_exact(name: str, sparsity: float) -> None:
    sizes = [a * b for a, b in SHAPES]
    total = nnz_at(sparsity, sum(sizes))
    counts = distributions.by_name(name)(SHAPES, total, torch.Generator().manual_seed(0))
    assert sum(counts) == total
    assert all(0 <= n <= size for n, size in zip(counts, sizes, strict=True))
    if name == "uniform":
        assert all(abs(n / size - total / sum(sizes)) <= 1 / size for n, size in zip(counts, sizes, strict=True))


def test_erk_makes_small_layers_dense_and_solves_the_rest_again() -> None:
    counts = distributions.erk(SHAPES, nnz_at(0.9, 266200))
    assert counts[2] == 1000
    densities = [n / (a * b) for n, (a, b) in zip(counts, SHAPES, strict=True)]
    assert densities[0] / densities[1] == pytest.approx((1084 / 235200) / (400 / 30000), rel=1e-3)


def test_er_counts_channels_and_erk_the_kernel_too() -> None:
    shapes = [(64, 32, 3, 3), (128, 64, 1, 1), (256, 64, 5, 5)]
    for name, density in (
        ("er", lambda s: (s[0] + s[1]) / (s[0] * s[1])),
        ("erk", lambda s: sum(s) / (s[0] * s[1] * s[2] * s[3])),
    ):
        counts = distributions.by_name(name)(shapes, 3000, None)
        shares = [n / (prod(s) * density(s)) for n, s in zip(counts, shapes, strict=True)]
        assert shares == pytest.approx([shares[0]] * 3, rel=1e-2)


def test_apportion_caps_and_redistributes() -> None:
    assert distributions.apportion([1, 1, 1], [10, 1, 10], 9) == [4, 1, 4]
    assert distributions.apportion([1, 1, 1], [10, 10, 10], 10) == [4, 3, 3]
    assert distributions.apportion([0, 0], [5, 5], 4) == [2, 2]
    assert distributions.apportion([5, 1], [3, 9], 100) == [3, 9]
    assert distributions.apportion([1, 2], [0, 0], 0) == [0, 0]

"""Sums with random signs, whose product estimates the gradient without bias."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import sparsekern as sk
from sparsekern.nn import PatternLayer

CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: sk.SparseLinear(4, 3, sparsity=0.5), (5, 4)),
    "sequence": (lambda: sk.SparseLinear(4, 3, sparsity=0.5), (2, 3, 4)),
    "vector": (lambda: sk.SparseLinear(4, 3, sparsity=0.5), (4,)),
    "3x3": (lambda: sk.SparseConv2d(2, 3, 3, padding=1, sparsity=0.5), (2, 2, 2, 2)),
    "stride, sides": (lambda: sk.SparseConv2d(3, 2, (2, 3), (2, 1), (1, 0), sparsity=0.5), (1, 3, 4, 5)),
    "same": (lambda: sk.SparseConv2d(2, 2, (2, 2), padding="same", dilation=(1, 2), sparsity=0.5), (1, 2, 2, 3)),
    "groups": (lambda: sk.SparseConv2d(4, 6, 2, groups=2, stride=2, padding=1, sparsity=0.5), (2, 4, 2, 2)),
    "depthwise": (lambda: sk.SparseConv2d(4, 4, 3, groups=4, padding=1, sparsity=0.5), (1, 4, 3, 3)),
    "no batch": (lambda: sk.SparseConv2d(2, 3, 2, padding_mode="circular", padding=1, sparsity=0.5), (2, 2, 2)),
}


def recorded(name: str, uses: int = 1) -> PatternLayer:
    make, shape = CASES[name]
    layer = make().double()
    layer.probe = layer.new_probe()
    for _ in range(uses):
        output = layer(torch.randn(shape, dtype=torch.double, requires_grad=True))
        output.backward(torch.randn_like(output))
    return layer


def outer(rows: Tensor, cols: Tensor) -> Tensor:
    """The product `[rows, cols]`; groups of rows have columns of their own."""
    cols = torch.atleast_2d(cols)
    return rows[:, None] * cols.repeat_interleave(len(rows) // len(cols), 0)


def count(layer: PatternLayer) -> int:
    """How many signs the records take."""
    drawn: list[int] = []
    layer.probe.signed_sums(lambda n: drawn.append(n) or torch.ones(n))
    return sum(drawn)


@pytest.mark.parametrize("name", CASES)
def test_the_expectation_over_all_signs_is_the_gradient(name: str) -> None:
    layer = recorded(name)
    n = count(layer)
    mean = torch.zeros(layer.weight_shape[0], layer.topology.cols, dtype=torch.double)
    for signs in product((-1.0, 1.0), repeat=n):
        mean += outer(*layer.probe.signed_sums(lambda m, signs=signs: torch.tensor(signs[:m]))) / 2**n
    torch.testing.assert_close(mean, layer.probe.dense_gradient().flatten(1))


def test_rows_are_samples_and_positions() -> None:
    assert {name: count(recorded(name)) for name in ("linear", "sequence", "vector", "3x3", "groups", "no batch")} == {
        "linear": 5, "sequence": 6, "vector": 1, "3x3": 8, "groups": 8, "no batch": 9,
    }  # fmt: skip


def test_a_layer_used_twice_draws_signs_for_both_uses() -> None:
    layer = recorded("vector", uses=2)
    mean = torch.zeros(3, 4, dtype=torch.double)
    for first, second in product((-1.0, 1.0), repeat=2):
        signs = iter((first, second))
        mean += outer(*layer.probe.signed_sums(lambda n, signs=signs: torch.tensor([next(signs)]))) / 4
    torch.testing.assert_close(mean, layer.probe.dense_gradient())


def test_sums_of_half_precision_are_wide() -> None:
    layer = sk.SparseConv2d(2, 3, 3, sparsity=0.5, dtype=torch.bfloat16)
    layer.probe = layer.new_probe()
    layer(torch.randn(2, 2, 5, 5, dtype=torch.bfloat16, requires_grad=True)).sum().backward()
    assert [sums.dtype for sums in layer.probe.signed_sums(torch.ones)] == [torch.float32] * 2

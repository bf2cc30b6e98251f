"""Largest entries: exact, ties to the first, no NaN."""

from itertools import product

import numpy as np
import pytest
import torch
from support import samples
from support.devices import moved
from support.expected import flat_scores, kth_largest, topk_mask
from support.samples import Pattern

from sparsekern import ops


@pytest.mark.parametrize("absolute", [False, True])
def test_selection_from_every_short_list(absolute: bool) -> None:
    p = Pattern(torch.zeros(1, 1, dtype=torch.bool))
    for numbers in product([-1.0, -0.0, 0.0, 1.0], repeat=4):
        scores = [torch.tensor(numbers[:1]), torch.tensor(numbers[1:]).reshape(3, 1)]
        for k in range(5):
            masks = ops.topk_mask(scores, k, absolute)
            assert all(torch.equal(a, b) for a, b in zip(masks, topk_mask(p, scores, k, absolute), strict=True))
            if k:
                assert ops.kth_largest(scores, k, absolute) == kth_largest(p, scores, k, absolute)


def test_ties_go_to_the_first(device: str) -> None:
    scores = moved([torch.zeros(3), torch.ones(2, 2), torch.full((400_000,), -1.0), torch.ones(3)], device)
    masks = ops.topk_mask(scores, 6, absolute=False)
    assert [mask.sum().item() for mask in masks] == [0, 4, 0, 2]
    assert masks[3].tolist() == [True, True, False]
    masks = ops.topk_mask(scores, 300_000, absolute=True)
    assert [mask.sum().item() for mask in masks] == [0, 4, 299_996, 0]
    assert bool(masks[2][:299_996].all())


KINDS = ["normal", "equal", "few values", "half zeros", "descending", "one outlier", "unlike its sample"]


def sampled(n: int) -> torch.Tensor:
    """Where the kernels of the CPU take the sample that tells them where to look."""
    stretch = n // 4096
    return torch.tensor([i * stretch + (i * 0x9E3779B97F4A7C15 % 2**64 >> 32) % stretch for i in range(4096)])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_selection_from_many(kind: str, dtype: torch.dtype, device: str) -> None:
    """Enough numbers for many threads and passes, some of them such that a digit tells little or nothing."""
    n = (1 << 20) + 77
    flat = {
        "normal": lambda: torch.randn(n),
        "equal": lambda: torch.full((n,), -2.0),
        "few values": lambda: torch.randint(-2, 3, (n,)).float(),
        "half zeros": lambda: torch.randn(n).relu(),
        "descending": lambda: torch.linspace(1, -3, n),
        "one outlier": lambda: torch.ones(n).index_fill_(0, torch.tensor([n - 2]), 5),
        "unlike its sample": lambda: torch.randn(n).index_fill_(0, sampled(n), -5),
    }[kind]().to(dtype)
    scores = [flat[:5], flat[5:400_000].reshape(5, -1), flat[400_000:]]
    there = moved([score.clone() for score in scores], device)
    for absolute in (False, True):
        order = np.argsort(-flat_scores(scores, absolute), kind="stable")
        for k in (1, 2, n // 20, n // 2, n - 1, n):
            mask = torch.zeros(n, dtype=torch.bool)
            mask[order[:k].copy()] = True
            actual = torch.cat([m.flatten() for m in ops.topk_mask(there, k, absolute)])
            assert torch.equal(actual.cpu(), mask)
            kth = flat[order[k - 1]]
            assert ops.kth_largest(there, k, absolute).cpu() == (kth.abs() if absolute else kth)
    there[2][-1] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        ops.kth_largest(there, 3)


def test_selection_ignores_gradients_and_takes_infinity() -> None:
    scores = [torch.tensor([1.0, -torch.inf, 3.0], requires_grad=True), torch.tensor([torch.inf])]
    assert ops.kth_largest(scores, 2).item() == 3
    assert not ops.kth_largest(scores, 2).requires_grad
    assert ops.topk_mask([], 0) == []


@pytest.mark.parametrize("dtype", samples.DTYPES["topk_mask"], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_selection_refuses_nan(dtype: torch.dtype, sign: int) -> None:
    nan = torch.tensor(float("nan")).copysign(torch.tensor(float(sign)))
    scores = [torch.ones(5, dtype=dtype), torch.stack([torch.tensor(2.0), nan]).to(dtype)]
    for absolute in (False, True):
        for k in (0, 1, 7):
            with pytest.raises(ValueError, match="scores must not contain NaN"):
                ops.topk_mask(scores, k, absolute)
        with pytest.raises(ValueError, match="scores must not contain NaN"):
            ops.kth_largest(scores, 3, absolute)

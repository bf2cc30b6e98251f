"""Thresholds: the k-th largest of long vectors on a CPU, the mask of the largest on a GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from .case import Case, cases
from .peer import OURS, TORCH, Implementation, Peer

SIZE, SHARE = 25_000_000, 0.05
GPU_SIZE, GPU_SHARE = 100_000_000, 0.1
VALUE, MASK = "k-th largest magnitude of", "topk_mask"


@dataclass(frozen=True)
class Vector:
    """So many numbers, of which a share is sought."""

    size: int
    shape: str
    sparsity: float
    batch: int | None = None
    dtype: str = "float32"
    macs: int = 0


def cpu_cases(quick: bool = False) -> list[Case]:
    size = 100_000 if quick else SIZE
    return cases([Vector(size, f"{size:,} numbers, k = {SHARE:.0%}", 1 - SHARE)], (VALUE,))


def gpu_cases(quick: bool = False) -> list[Case]:
    size = 10_000 if quick else GPU_SIZE  # in 16 bits many weights are equally large
    return cases([Vector(size, f"{size:,}", 1 - GPU_SHARE, 1)], (MASK,))


class KthLargest:
    """The k-th largest magnitude of normal numbers `x [n]`."""

    tolerance = 0.0

    def __init__(self, layer: Vector, device: torch.device | str = "cpu") -> None:
        self.layer, self.device = layer, torch.device(device)
        self.x = torch.randn(layer.size, generator=torch.Generator().manual_seed(0)).to(device)
        self.k = max(1, int(SHARE * layer.size))

    @cached_property
    def exact(self) -> float:
        return float(self.x.abs().kthvalue(self.layer.size - self.k + 1).values)

    def error(self, op: str, results: tuple[float, ...]) -> float:
        return abs(results[0] - self.exact) / self.exact


class LargestMask:
    """The mask of the largest tenth of the magnitudes of some tensors, or of a few more: no equal ones are told apart,
    which the peers cannot."""

    tolerance = 0.0

    def __init__(self, layer: Vector, device: torch.device | str = "cpu") -> None:
        self.layer, self.device = layer, torch.device(device)
        n, dtype = layer.size, getattr(torch, layer.dtype)
        self.scores = [torch.randn(m, device=device).to(dtype) for m in (n // 2, n // 3, n - n // 2 - n // 3)]
        ordered = torch.cat(self.scores).abs_().sort(descending=True).values
        self.k = int((ordered >= ordered[int(GPU_SHARE * n) - 1]).sum())

    @cached_property
    def exact(self) -> Tensor:
        mask = torch.zeros(self.layer.size, dtype=torch.bool, device=self.device)
        largest = torch.cat(self.scores).abs_().sort(descending=True).indices[: self.k]
        return mask.index_fill_(0, largest, True)

    def error(self, op: str, results: tuple[Tensor, ...]) -> float:
        (mask,) = results
        return float((mask != self.exact).float().mean()) if mask.shape == self.exact.shape else float("inf")


def _by(threshold: Callable[[Tensor, int], Any]) -> Callable[[Any, str], Implementation]:
    """Builds on a function that finds the k-th largest of magnitudes."""

    def build(p: Any, op: str) -> Implementation:
        if op == VALUE:
            return Implementation(lambda: float(threshold(p.x.abs(), p.k)), p.x.nbytes)

        def mask() -> Tensor:
            magnitudes = torch.cat(p.scores).abs_()
            return magnitudes >= threshold(magnitudes, p.k)

        return Implementation(mask)

    return build


def _numpy(p: KthLargest, op: str) -> Implementation:
    array, smallest = p.x.numpy(), p.x.numel() - p.k
    return Implementation(lambda: float(np.partition(np.abs(array), smallest)[smallest]), p.x.nbytes)


def _ours(p: Any, op: str) -> Implementation:
    if op == VALUE:
        return Implementation(lambda: float(ops.kth_largest([p.x], p.k, True)), p.x.nbytes)
    return Implementation(lambda: torch.cat(ops.topk_mask(p.scores, p.k, absolute=True)))


_torch = partial(Peer, ops=(VALUE, MASK), **TORCH)
_kthvalue = _torch("torch.kthvalue", build=_by(lambda m, k: m.kthvalue(m.numel() - k + 1).values))
_topk = _torch("torch.topk", build=_by(lambda m, k: m.topk(k, sorted=False).values.min()))
_sort = _torch("torch.sort", build=_by(lambda m, k: m.sort(descending=True).values[k - 1]))
_partition = Peer("numpy.partition", (VALUE,), _numpy, lambda: np.__version__)
_sparsekern = Peer("sparsekern", (VALUE, MASK), _ours, **OURS)

# The first one is what the others are divided by.
PEERS = (_kthvalue, _topk, _sort, _partition, _sparsekern)
GPU_PEERS = (_topk, _kthvalue, _sort, _sparsekern)

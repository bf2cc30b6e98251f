"""What is measured: the calls that solve a problem, and how a solution is checked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...topology import Topology, kept

BITS = frozenset({"bits"})
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


@dataclass
class Case:
    """Calls that compute the same; the first is the dense one, to which the others are compared.

    Attributes:
        calls: by implementation; each returns the first of the expected tensors, or several.
        expected: the results, in float64.
        bytes: what each implementation holds of the weight: values and index.
        at: where it counts, if not everywhere: at the coordinates of the nonzeros, which some calls return alone.
        missing: implementations that have no call here, and why.
    """

    name: str
    dtype: torch.dtype
    sparsity: float
    batch: int
    calls: dict[str, Callable[[], Any]]
    expected: Callable[[], Sequence[Tensor]]
    bytes: dict[str, int] = field(default_factory=dict)
    at: Tensor | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """ "forward 4096x4096 B=128 90% bfloat16" """
        return f"{self.name} B={self.batch} {self.sparsity:.0%} {str(self.dtype).removeprefix('torch.')}"

    def error(self, found: Tensor | Sequence[Tensor]) -> float:
        """The largest |found - expected| / |expected|, infinite for another shape or NaN."""
        results = [found] if isinstance(found, Tensor) else found
        return max(self._error(result, wanted) for result, wanted in zip(results, self._wanted, strict=False))

    @cached_property
    def _wanted(self) -> Sequence[Tensor]:
        return self.expected()

    def _error(self, result: Tensor, wanted: Tensor) -> float:
        if self.at is not None:
            wanted = wanted.flatten()[self.at]
            result = result.flatten()[self.at] if result.dim() > 1 else result
        if result.shape != wanted.shape:
            return float("inf")
        error = float((result.detach().double() - wanted).norm() / wanted.norm().clamp(min=1e-30))
        return error if error == error else float("inf")

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.dtype]


def weight(
    shape: tuple[int, ...], sparsity: float, dtype: torch.dtype, device: torch.device
) -> tuple[Topology, Tensor, Tensor]:
    """Pattern, values, and a dense weight that has other entries, too."""
    generator = torch.Generator().manual_seed(0)
    topology = Topology.random(shape, kept(sparsity, prod(shape)), generator=generator, views=BITS).to(device)
    master = torch.randn(shape, device=device).div_((topology.nnz / shape[0]) ** 0.5).to(dtype)
    return topology, topology.gather(master), master


def held(topology: Topology, values: Tensor, dense: Tensor) -> dict[str, int]:
    sparse = values.nbytes + sum(t.nbytes for t in topology.index)
    row_ptr, col = topology.row_ptr.numel(), topology.nnz
    return {
        "dense": dense.nbytes,
        "masked": dense.nbytes + topology.mask().nbytes,
        "torch-csr": values.nbytes + 4 * (row_ptr + col),
        "sparsekern-expanded": sparse,
        "sparsekern-bits": sparse,
        "sparsekern-fused": dense.nbytes + topology.index.tile_ptr.nbytes + topology.index.bits.nbytes,
    }

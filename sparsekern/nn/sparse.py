"""Layers that hold their nonzeros only."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from ..shards import LOAD, is_sharded, put, sharded_as, whole
from ..sparse_weight import SparseWeight
from .layer import PatternLayer
from .saved import SavedLayer


class SparseLayer(SavedLayer):
    """A layer with a weight of which only the nonzeros exist.

    Attributes:
        values: Parameter `[capacity]`, the used positions first, in row-major order; the only weight Parameter.
    """

    WEIGHT = "values"
    values: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        if self.outdated:
            self.check_copy()
        if is_compiling():
            if torch.onnx.is_in_onnx_export():
                return self.plain(input)
        elif self.refined <= self.training:
            self.refine(input)
        input = self.prepare(input)
        output = self.product(input, self.values)
        return output if self.probe is None else self.probe.watch(output, input, self.values)

    @property
    def sparse_weight(self) -> SparseWeight:
        return SparseWeight(self.values, self.topology)

    def empty_weight(self, capacity: int, **factory: Any) -> Tensor:
        return torch.empty(capacity, **factory)

    def reset_weight(self, generator: torch.Generator | None) -> None:
        """Draws weights uniformly in +-sqrt(3 / fan-in of the row)."""
        fan_in = self.row_ptr.diff()
        bounds = (3.0 / fan_in.clamp(min=1)).sqrt()
        drawn = torch.rand(self.topology.nnz, generator=generator, device="cpu").mul_(2).sub_(1)
        for row, bound in zip(drawn.split(fan_in.tolist()), bounds.tolist(), strict=True):
            row.mul_(bound)
        self.values.zero_()
        self.values[: drawn.numel()] = drawn.to(self.values)

    def take_weight(self, module: nn.Module) -> None:
        topology = self.topology
        if isinstance(module, SparseLayer) and topology.same_pattern(module.topology):
            self.values.copy_(topology.from_csr(module.topology.to_csr(module.values)))
            return
        dense: Any = module.dense_weight() if isinstance(module, PatternLayer) else module.weight
        self.values.copy_(topology.gather(self.rows_of(dense)))

    def entries(self, coordinates: Tensor) -> Tensor:
        return self.values if len(coordinates) == len(self.values) else self.values[: len(coordinates)]

    def dense_weight(self) -> Tensor:
        return self.weight_of(self.topology.dense(whole(self.values)))

    def dense_gradient(self) -> Tensor | None:
        return None if self.values.grad is None else self.weight_of(self.topology.dense(whole(self.values.grad)))

    @torch.no_grad()
    def write_weight(self, dense: Tensor) -> None:
        put(self.values, self.topology.gather(self.rows_of(dense)))

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        values, nnz = destination[prefix + "values"], self.topology.nnz
        if nnz < values.numel():
            used = sharded_as(whole(values)[:nnz], values)
            destination[prefix + "values"] = used if keep_vars else _alias(used)

    def adopt(self, weight: Tensor, row_ptr: Tensor, col: Tensor) -> Tensor:
        if weight.shape != col.shape:
            raise ValueError(f"expected a value for each of {col.numel()} columns, got shape {tuple(weight.shape)}")
        capacity = max(col.numel(), self.values.numel())
        if capacity > self.values.numel() and is_sharded(self.values):
            raise ValueError(
                f"the state has {capacity} nonzeros, but the sharded layer has room for {self.values.numel()}: {LOAD}"
            )
        topology = self._adopt_pattern(row_ptr, col, capacity)
        if capacity != self.values.numel():  # in place: the Parameter stays the one that the optimizer holds
            self.values.data = self.values.new_zeros(capacity)
            self.values.grad = None
        return sharded_as(topology.from_csr(whole(weight)), self.values)


def _alias(part: Tensor) -> Tensor:
    """Returns the same memory as a tensor with a storage of its own length: files hold no more than that, and writes
    to the tensor still reach the Parameter."""
    plain = type(part) is Tensor and part.device.type in ("cpu", "cuda")
    return torch.from_dlpack(part) if plain else part

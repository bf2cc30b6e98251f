"""Layers that hold their nonzeros only."""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from ..ops.csr import check_pattern
from ..private_torch import transforming
from ..shards import LOAD, is_sharded, put, sharded_as, whole
from ..sparse_weight import SparseWeight
from ..topology import Topology
from . import copies, live_states
from .layer import PatternLayer
from .plain import plain_output
from .planned import refine
from .saved import adopt_pattern, is_csr


class SparseLayer(PatternLayer):
    """A layer with a weight of which only the nonzeros exist.

    Attributes:
        values: Parameter `[capacity]`, the used positions first, in row-major order; the only weight Parameter.
    """

    WEIGHT = "values"
    values: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        if self.outdated:
            copies.check(self)
        if is_compiling():
            if torch.onnx.is_in_onnx_export():
                return plain_output(self, input)
        elif transforming() and self.probe is None:  # torch.func knows PyTorch's own operators only
            return plain_output(self, input)
        elif self.refined <= (self.training and torch.is_grad_enabled()):
            refine(self, input)
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

    @torch.no_grad()
    def write_gradient(self, dense: Tensor) -> None:
        if self.values.grad is not None:
            put(self.values.grad, self.topology.gather(self.rows_of(dense)))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments: Any) -> None:
        """Also loads a dense weight: its entries at the pattern of the state. If the state has none, the entries at
        the layer's own pattern are taken, and `row_ptr` and `col` are reported as missing."""
        values, *names = (prefix + part for part in ("values", "master", "weight", "row_ptr", "col"))
        found: list[Any] = [state_dict.get(name) for name in names]
        master, weight, row_ptr, col = found
        if values in state_dict or is_csr(weight) or (master is None and weight is None):
            super()._load_from_state_dict(state_dict, prefix, *arguments)
            return
        topology, missing = self.topology, names[2:] if row_ptr is None or col is None else []
        try:
            if any(key.startswith(f"{prefix}transform.") for key in state_dict):
                raise ValueError("the state is of a layer that multiplies a function of its weight")
            if row_ptr is not None and col is not None:
                check_pattern(row_ptr, col, topology.cols)
                topology = Topology(self.weight_shape, row_ptr.int(), col.int())
            if master is not None and prod(self.weight_shape):
                live_states.check(master)
            dense = whole(self.rows_of(weight) if master is None else master)
            parts = (topology.to_csr(topology.gather(dense)), topology.row_ptr, topology.col[: topology.nnz])
        except ValueError as error:
            arguments[-1].append(f"{values}: {error}")
            return
        rest = {key: value for key, value in state_dict.items() if key not in names}
        state_dict = {**rest, **dict(zip((values, *names[2:]), parts, strict=True))}
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        arguments[2].extend(missing)

    def saved_weight(self, weight: Tensor) -> Tensor:
        nnz = self.topology.nnz
        if nnz == weight.numel():
            return weight
        used = sharded_as(whole(weight)[:nnz], weight)
        return used if weight.requires_grad else _alias(used)

    def adopt(self, weight: Tensor, row_ptr: Tensor, col: Tensor) -> Tensor:
        if weight.shape != col.shape:
            raise ValueError(f"expected a value for each of {col.numel()} columns, got shape {tuple(weight.shape)}")
        capacity = max(col.numel(), self.values.numel())
        if capacity > self.values.numel() and is_sharded(self.values):
            raise ValueError(
                f"the state has {capacity} nonzeros, but the sharded layer has room for {self.values.numel()}: {LOAD}"
            )
        topology = adopt_pattern(self, row_ptr, col, capacity)
        if capacity != self.values.numel():  # in place: the Parameter stays the one that the optimizer holds
            self.values.data = self.values.new_zeros(capacity)
            self.values.grad = None
        return sharded_as(topology.from_csr(whole(weight)), self.values)


def _alias(part: Tensor) -> Tensor:
    """Returns the same memory as a tensor with a storage of its own length: files hold no more than that, and writes
    to the tensor still reach the Parameter."""
    plain = type(part) is Tensor and part.device.type in ("cpu", "cuda")
    return torch.from_dlpack(part) if plain else part

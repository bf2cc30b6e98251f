"""What a method sees of one layer."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..nn import Probe, SparseLayer
from ..topology import Topology
from . import parallel
from .carry import carry, carry_values


class Site:
    """One sparse layer: its active weights, their gradient, statistics of an armed step, and `rewire`.

    Index maps and scores run over the active weights `[nnz]` in row-major order.
    """

    def __init__(self, name: str, module: SparseLayer) -> None:
        self.name, self.module = name, module
        topology = module.topology
        self.loads = module.loads
        self.first = (topology.row_ptr, topology.col[: topology.nnz])
        self.facts: dict[str, float] = {}
        self.changes: dict[str, Any] = {"flips": 0, "iou_last": 1.0}

    # ---- facts

    @property
    def active(self) -> Topology:
        return self.module.topology

    @property
    def nnz(self) -> int:
        return self.active.nnz

    @property
    def size(self) -> int:
        return prod(self.module.weight_shape)

    @property
    def weight(self) -> Tensor:
        """Active weights, `[nnz]`."""
        return self.module.values.detach()[: self.nnz]

    @property
    def grad(self) -> Tensor | None:
        """Gradient of the active weights, `[nnz]`, after a backward pass."""
        grad = self.module.values.grad
        return None if grad is None else grad[: self.nnz]

    @property
    def learns(self) -> bool:
        """Whether the layer can change now: not frozen and, if it was armed for this step, reached by the gradient."""
        probe = self.module.probe
        return self.module.values.requires_grad and (probe is None or bool(probe.records))

    # ---- statistics of an armed step

    def arm(self) -> None:
        self.module.probe = self.module.new_probe()

    def disarm(self) -> None:
        self.module.probe = None

    @property
    def probe(self) -> Probe:
        if self.module.probe is None:
            raise RuntimeError(f"{self.name} was not armed for this step")
        return self.module.probe

    def row_weight(self) -> Tensor:
        return parallel.total(self.probe.row_weight())

    def col_weight(self) -> Tensor:
        return parallel.total(self.probe.col_weight())

    def gradient_at(self, coordinates: Tensor) -> Tensor:
        return parallel.total(self.probe.gradient_at(coordinates))

    def dense_gradient(self) -> Tensor:
        return parallel.total(self.probe.dense_gradient())

    # ---- change

    def rewire(
        self,
        keep: Tensor,
        grow: Tensor,
        capacity: int,
        optimizer: torch.optim.Optimizer,
        followers: Sequence[SparseLayer],
    ) -> bool:
        """Drops the active weights whose `keep` is False, adds weights of value 0 at the coordinates `grow`; moves
        optimizer state, gradient and followers along. Returns whether the capacity grew."""
        old = self.active
        for follower in followers:
            if not follower.topology.same_pattern(old):
                raise ValueError(
                    f"a follower of {self.name} has another pattern than the layer: it missed a change of pattern. "
                    "Copy it from the model again, or pass it to Sparsifier(followers=) from the start"
                )
        topology, index_map = old.rewire(keep, grow, capacity=max(capacity, old.capacity))
        carry(optimizer, self.module, index_map)
        self.module.set_topology(topology)
        for follower in followers:
            carry_values(follower, index_map)
            follower.set_topology(topology)
        survivors = int(keep.sum())
        union = old.nnz + topology.nnz - survivors
        self.changes = {"flips": union - survivors, "iou_last": survivors / max(1, union)}
        return topology.capacity != old.capacity

    def iou_first(self) -> float:
        """Intersection over union of the active pattern with the first one."""
        active = self.active
        row_ptr, col = self.first
        first = ops.coordinates(row_ptr, col, active.cols)
        common = int(torch.isin(active.coordinates(), first, assume_unique=True).sum())
        return common / max(1, first.numel() + active.nnz - common)

    def check_loaded(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuses to go on with optimizer state that belongs to other weights than a loaded pattern has."""
        if self.loads != self.module.loads and optimizer.state.get(self.module.values):
            raise RuntimeError(
                f"{self.name} got another pattern from a state dict, but the optimizer's state belongs to the old one: "
                "load the state of the Sparsifier, too, or build a new optimizer"
            )
        self.loads = self.module.loads

    # ---- files

    def state(self) -> dict[str, Any]:
        row_ptr, col = self.first
        return {
            "nnz": self.nnz,
            "kernel": self.module.kernel,
            "reason": self.module.reason,
            "changes": self.changes,
            "facts": self.facts,
            "first_row_ptr": row_ptr,
            "first_col": col,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.loads = self.module.loads
        self.first = (state["first_row_ptr"], state["first_col"])
        self.changes, self.facts = dict(state["changes"]), dict(state["facts"])
        self.module.set_kernel(state["kernel"], state["reason"])

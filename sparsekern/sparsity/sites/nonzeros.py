"""A site of a layer that holds its nonzeros only."""

from typing import Any

import torch
from torch import Tensor

from ... import ops
from ...nn import SparseLayer
from ...shards import put, whole
from .. import parallel
from ..change.carry_optimizer_state import by_map, carry, carry_values
from ..change.compaction import Compaction, Marks
from .layer_site import Companions, LayerSite


class NonzerosSite(LayerSite[SparseLayer]):
    """A layer that holds its nonzeros only. Scores and index maps run over the active weights `[nnz]` in row-major
    order."""

    @classmethod
    def after(cls, site: LayerSite) -> "NonzerosSite":
        """Returns the site of a layer that has come to hold its nonzeros only, with the history of `site`."""
        new = cls(site.name, site.module)
        new.first, new.changes, new.facts, new.optimizer = site.first, site.changes, site.facts, site.optimizer
        return new

    @property
    def weight(self) -> Tensor:
        """Active weights, `[nnz]`."""
        return whole(self.module.values.detach())[: self.nnz]

    @property
    def grad(self) -> Tensor | None:
        """Gradient of the active weights, `[nnz]`, after a backward pass."""
        grad = self.module.values.grad
        return None if grad is None else whole(grad)[: self.nnz]

    @torch.no_grad()
    def write(self, weight: Tensor) -> None:
        put(self.parameter, self.active.from_csr(weight))

    def settle(self, along: Companions) -> "NonzerosSite":
        return self

    def dense_gradient(self) -> Tensor:
        """Returns the gradient of an armed step at every entry, of the weight's shape, summed over ranks."""
        return parallel.total(self.probe.dense_gradient())

    def rewire(self, keep: Tensor, grow: Tensor, kept: int, capacity: int, along: Companions) -> bool:
        """Drops and grows weights, and moves optimizer state, gradient and followers along. Returns whether the
        capacity changed.

        Args:
            keep: which active weights stay, bool `[nnz]`; `kept` entries are True. Where none grow on the CPU it may
                be a bitmask of one row.
            grow: int64 flat coordinates of new weights, whose value is 0.
            capacity: room for so many weights.
        """
        old, (change, states, followers) = self.active, along
        self.check_followers(followers)
        if capacity == old.capacity and not grow.numel() and kept == old.nnz:
            self.note_change(old, old.nnz)
            return False
        if not grow.numel() and keep.device.type == "cpu":
            bits = keep if keep.dtype == torch.int64 else ops.mask_bits(keep.view(1, -1))
            topology, move = old.drop(bits, kept, capacity), Compaction(change, Marks(bits, old.nnz), capacity)
        else:
            topology, index_map = old.rewire(keep, grow, capacity=capacity, kept=kept)
            move = by_map(index_map)
            if keep.device.type == "cpu":
                move = Compaction(change, Marks.of(keep), capacity, Marks.of(index_map[: topology.nnz] >= 0))
        self.module = change.layer(self.module)
        self.module.set_topology(topology)  # first: building the index takes memory of its own
        carry(change, states, self.module, move)
        for follower in map(change.layer, followers):
            carry_values(change, follower, move)
            follower.set_topology(topology.clone())
        self.note_change(old, kept)
        return topology.capacity != old.capacity

    def fit(self, state: dict[str, Any], along: Companions) -> None:
        capacity = state.get("capacity", self.active.capacity)
        if capacity != self.active.capacity:
            none = self.active.coordinates()[:0]
            stays = torch.ones(self.nnz, dtype=torch.bool, device=none.device)
            self.rewire(stays, none, self.nnz, capacity, along)

    def check_loaded(self, optimizer: torch.optim.Optimizer) -> None:
        if self.loads != self.module.loads and optimizer.state.get(self.module.values):
            raise RuntimeError(
                f"{self.name} got another pattern from a state dict, but the optimizer's state belongs to the old one: "
                "load the state of the Sparsifier, too, or build a new optimizer"
            )
        self.loads = self.module.loads


Site = NonzerosSite  # as it was called in version 0.1

"""Layers that hold their nonzeros only, whose pruned weights are stashed with their optimizer state."""

from typing import Any

import torch
from torch import Tensor

from ...nn import SparseLayer
from ...shards import whole
from .. import parallel
from ..change.carry_optimizer_state import hand_over, put_values
from .layer_site import Companions
from .nonzeros import NonzerosSite
from .remasked import Remasked


class StashedSite(Remasked, NonzerosSite):
    """A layer that holds its nonzeros only. Its pruned weights are stashed.

    Stashed weights and their optimizer state don't change, and may come back as they were (SNR, section 5.3). Scores
    run over all weights, as those of a master.

    Attributes:
        stashed: dense tensors of the weight's shape, by name: "weight", and "state NAME" for each of the optimizer's.
            Entries of active weights are out of date.
    """

    def __init__(self, name: str, module: SparseLayer) -> None:
        super().__init__(name, module)
        self.stashed: dict[str, Tensor] = {}

    def gradient_and_moment(self) -> tuple[Tensor, Tensor, int]:
        gradient, moment, samples = self.probe.gradient_and_moment()
        ranks = parallel.ranks()
        if ranks > 1:
            gradient, moment = parallel.mean(gradient), parallel.total(moment) / ranks**2
        return gradient, moment, parallel.count(samples, moment.device)

    @property
    def weight(self) -> Tensor:
        """The dense weight. Pruned entries are as they were."""
        return self._stash("weight", self.module.values.detach())

    def _stash(self, name: str, values: Tensor) -> Tensor:
        """Returns the active values `[capacity]` and the stashed ones in one tensor of the weight's shape."""
        if name not in self.stashed:
            self.stashed[name] = torch.zeros(self.shape, dtype=values.dtype, device=values.device)
        # The model may have got another dtype or device.
        dense = self.stashed[name] = self.stashed[name].to(values.device, values.dtype)
        active = self.active
        dense.view(-1)[active.coordinates()] = active.to_csr(whole(values))
        return dense

    @torch.no_grad()
    def remask(
        self,
        mask: Tensor,
        nnz: int,
        common: int,
        capacity: int,
        along: Companions,
        settles: bool = False,
    ) -> bool:
        """Makes `mask` the pattern, as `MasterSite.remask` does. Values and optimizer state are exchanged with the
        stashed ones."""
        old, parameter, (change, states, followers) = self.active, self.module.values, along
        self.check_followers(followers)
        topology = self._next(mask, nnz, common, capacity)
        if topology is None:
            self.note_change(old, common)
            return False
        self.module = layer = change.layer(self.module)
        dense, entries = self.weight, [e for e in states.of(parameter) if e.tensor.shape == parameter.shape]
        moved = {entry.name: topology.gather(self._stash(f"state {entry.name}", entry.tensor)) for entry in entries}
        for follower in map(change.layer, followers):
            own = dense.clone()
            own.view(-1)[old.coordinates()] = old.to_csr(follower.values)
            put_values(change, follower, topology.gather(own), None)
            follower.set_topology(topology.clone())
        put_values(change, layer, topology.gather(dense), None)
        layer.set_topology(topology)
        hand_over(change, states, parameter, layer.values, entries, lambda entry: moved[entry.name])
        self.note_change(old, common)
        return topology.capacity != old.capacity

    def extra_tensors(self) -> list[Tensor]:
        return [*super().extra_tensors(), *self.stashed.values()]

    def settle(self, along: Companions) -> NonzerosSite:
        return NonzerosSite.after(self)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "stashed": self.stashed}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        device = self.parameter.device
        stashed = state["stashed"] if "stashed" in state else state["parked"]  # as version 0.1 called them
        self.stashed = {name: tensor.to(device, copy=True) for name, tensor in stashed.items()}

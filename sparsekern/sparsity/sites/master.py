"""Layers with a dense master weight, as methods see them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from ...nn import MaskedLayer, SparseLayer
from ...nn.masked import signature
from ...ops import active_values
from ...topology import Topology
from .. import parallel
from ..change.carry_optimizer_state import fresh_state, hand_over, put_values
from ..change.optimizer_layout import States
from ..change.transaction import Transaction
from .site import Layer, LayerSite, Site


class Remasked(LayerSite):
    """A layer whose next pattern is given by a mask. The mask in use is kept, one byte a weight, to compare it with."""

    _mask: tuple[Tensor, Tensor] | None = None  # the row pointers that it belongs to, and the mask

    def kept(self) -> list[Tensor]:
        return [*super().kept(), *(() if self._mask is None else self._mask[1:])]

    def _remember(self, mask: Tensor) -> None:
        self._mask = self.active.row_ptr, mask

    def state(self) -> dict[str, Any]:
        return {**super().state(), "capacity": self.active.capacity, "compared": self._mask is not None}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._mask = None
        if state.get("compared"):
            self._remember(self.active.mask())

    def shared(self, mask: Tensor) -> Tensor:
        """How many weights a mask and the one in use have in common, 0-d."""
        if self._mask is None or self._mask[0] is not self.active.row_ptr:
            self._remember(self.active.mask())
        return ops.host.count(mask & self._mask[1])  # type: ignore[index]

    def _next(self, mask: Tensor, nnz: int, common: int, capacity: int) -> Topology | None:
        """The pattern of a mask of `nnz` weights, None if it is the one in use. It has the capacity of the one in use,
        unless that is too small or more than twice `capacity`."""
        old = self.active
        if nnz == common == old.nnz:
            return None
        room = old.capacity if nnz <= old.capacity <= 2 * capacity else capacity
        return Topology.from_mask(mask, capacity=room, nnz=nnz)


class MasterSite(Remasked, LayerSite[MaskedLayer]):
    """A layer whose pattern is a mask: no change of pattern moves a weight or its optimizer state. Scores run over all
    weights."""

    def __init__(self, name: str, module: MaskedLayer) -> None:
        super().__init__(name, module)
        self._master = module.master

    @property
    def weight(self) -> Tensor:
        """The dense weight."""
        return self.module.master.detach()

    @property
    def learned(self) -> list[nn.Parameter]:
        transform = self.module.transform
        return [self.parameter, *([] if transform is None else transform.parameters())]

    @property
    def grad(self) -> Tensor | None:
        return self.module.master.grad

    @property
    def missed(self) -> bool:
        layer, gradient = self.module, self.grad
        unrecorded = layer.weight_gradient == "moment" and layer.moment is None
        return super().missed or (unrecorded and gradient is not None and not gradient.any())

    @property
    def error(self) -> float:
        """|w - m w|^2 / |w|^2, the share of the weight that the mask hides (DPF, delta_t)."""
        weight = self.weight.double()
        total = weight.square().sum()
        active = active_values(self.weight, self.module.index).double().square().sum()
        return float((1 - active / total).clamp(min=0)) if total > 0 else 0.0

    def remask(
        self,
        mask: Tensor,
        nnz: int,
        common: int,
        capacity: int,
        change: Transaction,
        states: States,
        followers: Sequence[MaskedLayer],
    ) -> bool:
        """Makes `mask` the pattern, bool of the weight's shape with `nnz` entries True, of which `common` are in use
        (`shared`); with room for `capacity` weights if it has not enough or far too much now. Returns whether the
        capacity changed."""
        old = self.active
        self.check_followers(followers)
        topology = self._next(mask, nnz, common, capacity)
        if topology is not None:
            self.module = change.layer(self.module)
            self.module.set_topology(topology)
            for follower in map(change.layer, followers):
                follower.set_topology(topology.clone())
            self._remember(mask)
        self.note_change(old.nnz, common)
        return self.active.capacity != old.capacity

    def fit(self, state: dict[str, Any], change: Transaction, states: States, followers: Sequence[Layer]) -> None:
        capacity = state.get("capacity", self.active.capacity)
        if capacity != self.active.capacity:
            self.module = change.layer(self.module)
            for layer in (self.module, *map(change.layer, followers)):
                layer.set_topology(layer.topology.with_capacity(capacity))

    def forget(self) -> None:
        super().forget()
        if isinstance(self.module, MaskedLayer):  # otherwise a state dict has made it shed what is absent
            self.module.forget()

    def gradient_and_moment(self) -> tuple[Tensor, Tensor, int]:
        """As `LayerSite`; if the gradient was scaled after the backward pass (clipped, unscaled), so is the moment."""
        layer, gradient = self.module, self.module.master.grad
        if gradient is None or layer.moment is None or layer.signature is None:
            raise RuntimeError(f"{self.name} recorded no moment of its gradient in this step")
        recorded, now, ranks = parallel.mean(layer.signature), signature(gradient), parallel.ranks()
        moment, samples = parallel.total(layer.moment), layer.samples * ranks
        layer.forget()
        # To look whether they differ would be to wait for another device.
        if ranks > 1 or now.device.type != "cpu" or not torch.equal(recorded, now):
            moment.mul_((self._scale(recorded.double(), now.double()) / ranks).square())
        return gradient, moment, samples

    def _scale(self, recorded: Tensor, now: Tensor) -> Tensor:
        """By how much the gradient was scaled since its moment was recorded, 0-d. Whether it was changed otherwise is
        refused on a CPU; for another device that would be to wait, and it is noted."""
        length = recorded.square().sum()
        scale = torch.where(length > 0, (now * recorded).sum() / length, 1.0)
        allowed = 0.01 if self.parameter.element_size() > 2 else 0.1  # a narrow sum over backward passes is rough
        altered = (now - scale * recorded).square().sum() > allowed**2 * now.square().sum()
        if now.device.type != "cpu":
            self.altered = altered
        elif altered:
            self.refuse_gradient()
        return scale

    def measures(self) -> dict[str, float]:
        return {**super().measures(), "error": self.error}

    def check_loaded(self, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(self.module, MaskedLayer):
            raise RuntimeError(
                f"{self.name} got its nonzeros only from a state dict, but the optimizer holds its dense weight: load "
                "the state of the Sparsifier, too"
            )

    @torch.no_grad()
    def settle(self, change: Transaction, states: States, followers: Sequence[MaskedLayer]) -> Site:
        """Sheds what is absent, in the layer and in the optimizer."""
        self.module = change.layer(self.module)
        for layer in (self.module, *map(change.layer, followers)):
            if isinstance(layer, MaskedLayer):  # otherwise a state dict has done it
                layer.shed()
        master, anew = self._master, set()
        for optimizer in states.optimizers:
            held = optimizer.state.get(master, {})
            fresh = fresh_state(optimizer, master) if held else None
            if fresh is not None and not fresh.keys() <= held.keys():  # it keeps other numbers of a matrix (Adafactor)
                change.contents(optimizer.state).pop(master)
                anew |= {id(tensor) for tensor in held.values()}
        entries = [e for e in states.of(master) if e.tensor.shape == master.shape and id(e.tensor) not in anew]
        hand_over(change, states, master, self.parameter, entries, lambda entry: self.active.gather(entry.tensor))
        return settled(self)


class ParkedSite(Remasked, Site):
    """A layer that holds its nonzeros only, whose pruned weights lie aside with their optimizer state, frozen, and may
    come back as they were (SNR, section 5.3). Scores run over all weights, as those of a master."""

    def __init__(self, name: str, module: SparseLayer) -> None:
        super().__init__(name, module)
        self.parked: dict[str, Tensor] = {}

    def gradient_and_moment(self) -> tuple[Tensor, Tensor, int]:
        gradient, moment, samples = self.probe.gradient_and_moment()
        ranks = parallel.ranks()
        if ranks > 1:
            gradient, moment = parallel.mean(gradient), parallel.total(moment) / ranks**2
        return gradient, moment, samples * ranks

    @property
    def weight(self) -> Tensor:
        """The dense weight, pruned entries as they were."""
        return self._park("weight", self.module.values.detach())

    def _park(self, name: str, values: Tensor) -> Tensor:
        """Puts the active values `[capacity]` beside the parked ones, and returns all of them, `shape`."""
        if name not in self.parked:
            self.parked[name] = values.new_zeros(self.shape)
        dense, active = self.parked[name], self.active
        dense.view(-1)[active.coordinates()] = active.to_csr(values)
        return dense

    @torch.no_grad()
    def remask(
        self,
        mask: Tensor,
        nnz: int,
        common: int,
        capacity: int,
        change: Transaction,
        states: States,
        followers: Sequence[SparseLayer],
    ) -> bool:
        """As `MasterSite.remask`."""
        old, parameter = self.active, self.module.values
        self.check_followers(followers)
        topology = self._next(mask, nnz, common, capacity)
        if topology is None:
            self.note_change(old.nnz, common)
            return False
        self.module = layer = change.layer(self.module)
        dense, entries = self.weight, [e for e in states.of(parameter) if e.tensor.shape == parameter.shape]
        moved = {entry.name: topology.gather(self._park(f"state {entry.name}", entry.tensor)) for entry in entries}
        for follower in map(change.layer, followers):
            own = dense.clone()
            own.view(-1)[old.coordinates()] = old.to_csr(follower.values)
            put_values(change, follower, topology.gather(own), None)
            follower.set_topology(topology.clone())
        put_values(change, layer, topology.gather(dense), None)
        layer.set_topology(topology)
        hand_over(change, states, parameter, layer.values, entries, lambda entry: moved[entry.name])
        self._remember(mask)
        self.note_change(old.nnz, common)
        return topology.capacity != old.capacity

    def kept(self) -> list[Tensor]:
        return [*super().kept(), *self.parked.values()]

    def settle(self, change: Transaction, states: States, followers: Sequence[SparseLayer]) -> Site:
        return settled(self)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "parked": self.parked}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        device = self.parameter.device
        self.parked = {name: tensor.to(device, copy=True) for name, tensor in state["parked"].items()}


def settled(site: LayerSite) -> Site:
    """The site of a layer that has become one of nonzeros."""
    new = Site(site.name, site.module)
    new.first, new.changes, new.facts, new.optimizer = site.first, site.changes, site.facts, site.optimizer
    return new

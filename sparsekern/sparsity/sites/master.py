"""Layers with a dense master weight under a mask."""

from typing import Any

import torch
from torch import Tensor

from ...nn import MaskedLayer, PatternLayer, SparseLayer
from ...nn.masked import Gradient
from ...nn.moment import signature
from ...nn.probe import Needs
from ...ops import active_values
from ...shards import is_sharded, whole
from .. import parallel
from ..change.carry_optimizer_state import Move, hand_over, of_a_matrix
from ..change.compaction import Compaction, Marks
from ..change.optimizer_layout import paths
from ..change.transaction import Transaction
from .layer_site import Companions, LayerSite
from .nonzeros import NonzerosSite
from .remasked import Remasked


class MasterSite(Remasked, LayerSite[MaskedLayer]):
    """A layer whose pattern is a mask. No change of pattern moves a weight or its optimizer state. Scores run over all
    weights."""

    def __init__(self, name: str, module: MaskedLayer) -> None:
        super().__init__(name, module)
        self._master = module.master

    @property
    def weight(self) -> Tensor:
        """The dense weight."""
        return whole(self.module.master.detach())

    @property
    def grad(self) -> Tensor | None:
        gradient = self.module.master.grad
        return None if gradient is None else whole(gradient)

    @property
    def missed(self) -> bool:
        layer = self.module
        unrecorded = layer.weight_gradient == "moment" and layer.moment is None
        return super().missed or (unrecorded and (gradient := self.grad) is not None and not gradient.any())

    @property
    def error(self) -> float:
        """The share of the weight that the mask hides: |w - m w|^2 / |w|^2 (DPF, delta_t)."""
        weight = self.weight
        total = weight.double().square().sum()
        active = active_values(weight, self.module.index).double().square().sum()
        return float((1 - active / total).clamp(min=0)) if total > 0 else 0.0

    def remask(
        self,
        mask: Tensor,
        nnz: int,
        common: int,
        capacity: int,
        along: Companions,
        settles: bool = False,
    ) -> bool:
        """Makes `mask` the pattern. Returns whether the capacity changed.

        Args:
            mask: of `nnz` weights, of which `common` are in use (`shared`).
            capacity: room for so many weights, if there is not enough or far too much now.
            settles: `settle` comes next.
        """
        old, (change, _, followers) = self.active, along
        self.check_followers(followers)
        topology = self._next(mask, nnz, common, capacity)
        if topology is not None:
            self.module, install = change.layer(self.module), PatternLayer.set_topology
            if settles:  # no index is built that nothing reads
                install = PatternLayer.set_unused_topology
            install(self.module, topology)
            for follower in map(change.layer, followers):
                install(follower, topology.clone())
        self.note_change(old, common)
        return self.active.capacity != old.capacity

    def fit(self, state: dict[str, Any], along: Companions) -> None:
        change, _, followers = along
        capacity = state.get("capacity", self.active.capacity)
        if capacity != self.active.capacity:
            self.module = change.layer(self.module)
            for layer in (self.module, *map(change.layer, followers)):
                layer.set_topology(layer.topology.with_capacity(capacity))

    def prepare(self, needs: Needs | None, gradient: Gradient) -> None:
        super().prepare(needs, gradient)
        layer = self.module
        if isinstance(layer, MaskedLayer) and layer.weight_gradient != gradient:  # modules set attributes slowly
            layer.weight_gradient = gradient
        if isinstance(layer, MaskedLayer) and gradient == "moment":
            layer.gradient_moment.passes.elsewhere = is_sharded(self.parameter)

    def forget(self) -> None:
        super().forget()
        if isinstance(self.module, MaskedLayer):  # otherwise a state dict has made it shed what is absent
            self.module.gradient_moment.clear()

    def gradient_and_moment(self) -> tuple[Tensor, Tensor, int]:
        """Returns what `LayerSite.gradient_and_moment` does. If the gradient was scaled after the backward pass
        (clipped, unscaled), so is the moment."""
        recorded, gradient = self.module.gradient_moment, self.grad
        if gradient is None or recorded.total is None or recorded.signature is None:
            raise RuntimeError(
                f"{self.name} recorded no moment of its gradient in this step: call the layer, not its weight"
            )
        now, ranks = signature(gradient), parallel.ranks()
        before, moment = parallel.mean(recorded.signature), parallel.total(recorded.total)
        samples = parallel.count(recorded.samples, moment.device)
        recorded.clear()
        # Comparing them would wait for another device.
        if ranks > 1 or now.device.type != "cpu" or not torch.equal(before, now):
            moment.mul_((self._scale(before.double(), now.double()) / ranks).square())
        return gradient, moment, samples

    def _scale(self, recorded: Tensor, now: Tensor) -> Tensor:
        """Returns the factor by which the gradient was scaled since its moment was recorded, 0-d.

        A gradient that was changed otherwise is refused on a CPU, and noted as `altered` on another device, which the
        host would have to wait for."""
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
        if is_sharded(self.parameter):  # a report of one rank gathers nothing
            return super().measures()
        return {**super().measures(), "error": self.error}

    def check_loaded(self, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(self.module, MaskedLayer):
            raise RuntimeError(
                f"{self.name} got its nonzeros only from a state dict, but the optimizer holds its dense weight: load "
                "the state of the Sparsifier, too"
            )

    @torch.no_grad()
    def settle(self, along: Companions) -> NonzerosSite:
        """Drops the pruned weights from the layer and from the optimizer's state."""
        change, states, followers = along
        self.module, move = change.layer(self.module), self._move(change)
        for layer in (self.module, *map(change.layer, followers)):
            if isinstance(layer, MaskedLayer):  # otherwise a state dict has done it
                layer.shed(move)
                change.shrunk.append(layer.stored)
        move = move or (lambda tensor, _: self.active.gather(tensor))
        master, anew = self._master, set()
        for optimizer in states.optimizers:
            if master in optimizer.state and of_a_matrix(optimizer, master):
                change.contents(optimizer.state).pop(master)
                anew |= set(map(id, paths(optimizer.state[master]).values()))
        entries = [e for e in states.of(master) if e.tensor.shape == master.shape and id(e.tensor) not in anew]
        hand_over(change, states, master, self.parameter, entries, lambda entry: move(entry.tensor, 0.0))
        prefix = f"{self.name}." if self.name else ""
        states.rename(change, f"{prefix}{MaskedLayer.WEIGHT}", f"{prefix}{SparseLayer.WEIGHT}")
        return NonzerosSite.after(self)

    def _move(self, change: Transaction) -> Move | None:
        """Returns what leaves the active entries of dense tensors in their memory, if that is how they are stored."""
        layer = self.module
        if layer.stored.device.type != "cpu" or not isinstance(layer, MaskedLayer) or layer.transform is not None:
            return None
        return Compaction(change, Marks(self.active.flat_bits(), self.size), self.nnz)

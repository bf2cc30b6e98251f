"""What a method sees of one layer."""

from collections.abc import Sequence
from math import prod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ... import ops
from ...nn import PatternLayer, Probe, SparseLayer
from ...topology import Topology
from .. import parallel
from ..change.carry_optimizer_state import carry, carry_values
from ..change.optimizer_layout import States, state_of
from ..change.transaction import Transaction

Layer = TypeVar("Layer", bound=PatternLayer)


class LayerSite(Generic[Layer]):
    """One layer with a pattern, however it stores its weight.

    Attributes:
        optimizer: the optimizer of the weight.
        tracked: numbers per weight that the method's rule keeps.
        facts: numbers of the last change that the method's rule reports; of 0-d tensors the host reads those that it is
            asked for.
        changes: flips and intersection over union of the last change.
        altered: whether the last gradient was no multiple of the one that its moment was recorded of, 0-d bool; None
            if that is known not to be so.
        change: that in the making, of a draft of the site.
    """

    altered: Tensor | None = None
    change: Transaction | None = None

    def __init__(self, name: str, module: Layer) -> None:
        self.name, self.module = name, module
        topology = module.topology
        self.loads = module.loads
        self.optimizer: torch.optim.Optimizer | None = None
        self.tracked: dict[str, Tensor] = {}
        self.facts: dict[str, float | Tensor] = {}
        self.changes: dict[str, Any] = {"flips": 0, "iou_last": 1.0}
        # The first pattern; None if it was all weights.
        self.first = None if topology.nnz == self.size else (topology.row_ptr, topology.col[: topology.nnz])

    # ---- facts

    @property
    def active(self) -> Topology:
        return self.module.topology

    @property
    def nnz(self) -> int:
        return self.active.nnz

    @property
    def shape(self) -> tuple[int, ...]:
        return self.module.weight_shape

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def parameter(self) -> nn.Parameter:
        """The Parameter of the weight."""
        return self.module.stored

    @property
    def learned(self) -> list[nn.Parameter]:
        """The Parameters that the weight is made of."""
        return [self.parameter]

    @property
    def weight(self) -> Tensor:
        """The weights that are scored."""
        raise NotImplementedError

    @property
    def grad(self) -> Tensor | None:
        """Their gradient, after a backward pass."""
        raise NotImplementedError

    @property
    def moments(self) -> dict[str, Tensor]:
        """The optimizer's state tensors of the parameter's shape, by its names."""
        state = {} if self.optimizer is None else state_of(self.optimizer, self.parameter)
        return {key: t for key, t in state.items() if isinstance(t, Tensor) and t.shape == self.parameter.shape}

    @property
    def learns(self) -> bool:
        """Whether the weight is not frozen."""
        return self.parameter.requires_grad

    @property
    def missed(self) -> bool:
        """Whether the layer was armed for this step, but no gradient reached it."""
        probe = self.module.probe
        return probe is not None and not probe.records

    # ---- statistics of an armed step

    def arm(self) -> None:
        self.module.probe = self.module.new_probe()

    def disarm(self) -> None:
        self.module.probe = None

    def forget(self) -> None:
        """Drops what the step has recorded so far."""
        if self.module.probe is not None:
            self.module.probe.forget()

    @property
    def probe(self) -> Probe:
        if self.module.probe is None:
            raise RuntimeError(f"{self.name} was not armed for this step")
        return self.module.probe

    def gradient_and_moment(self) -> tuple[Tensor, Tensor, int]:
        """Dense gradient of this step, sum over samples of the squares of their shares, and number of samples."""
        raise NotImplementedError

    def refuse_gradient(self) -> None:
        """Of one that was `altered`."""
        raise RuntimeError(
            f"the gradient of {self.name} is no multiple of the one whose second moment was recorded: clip it by its "
            "norm, not by value, and leave penalties on weights to the optimizer's weight decay"
        )

    # ---- change, of a draft of the site

    def check_followers(self, followers: Sequence[PatternLayer]) -> None:
        for follower in followers:
            if not follower.topology.same_pattern(self.active):
                raise ValueError(
                    f"a follower of {self.name} has another pattern than the layer: it missed a change of pattern. "
                    "Copy it from the model again, or pass it to Sparsifier(followers=) from the start"
                )

    def become(self, weight: Tensor) -> None:
        """Gives the weight these values together with the change of pattern."""
        if self.change is None:
            raise RuntimeError(f"the pattern of {self.name} does not change at the moment")
        self.change.copy(self.weight, weight)

    def note_change(self, before: int, common: int) -> None:
        """Of a change that kept `common` of `before` weights."""
        union = before + self.nnz - common
        self.changes = {"flips": union - common, "iou_last": common / max(1, union)}

    def iou_first(self) -> float:
        """Intersection over union of the active pattern with the first one."""
        active = self.active
        if self.first is None:
            return active.nnz / max(1, self.size)
        row_ptr, col = self.first
        first = ops.coordinates(row_ptr, col, active.cols)
        common = int(torch.isin(active.coordinates(), first, assume_unique=True).sum())
        return common / max(1, first.numel() + active.nnz - common)

    def kept(self) -> list[Tensor]:
        """What is kept for the layer's weights beside the layer and the optimizer."""
        return list(self.tracked.values())

    def measures(self) -> dict[str, float]:
        """What a report says beyond the pattern."""
        return {name: fact.item() if isinstance(fact, Tensor) else fact for name, fact in self.facts.items()}

    def check_loaded(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuses to go on with optimizer state that belongs to other weights than a loaded pattern has."""

    def settle(self, change: Transaction, states: States, followers: Sequence[Layer]) -> "Site":
        """The site of the layer once its pattern stays, holding its nonzeros only."""
        raise NotImplementedError

    # ---- files

    def state(self) -> dict[str, Any]:
        return {
            "nnz": self.nnz,
            "kernel": self.module.kernel,
            "reason": self.module.reason,
            "changes": self.changes,
            "facts": LayerSite.measures(self),
            "first": self.first,
            "tracked": self.tracked,
        }

    def fit(self, state: dict[str, Any], change: Transaction, states: States, followers: Sequence[Layer]) -> None:
        """Gives a layer the room that the one of a saved state has."""

    def load_state(self, state: dict[str, Any]) -> None:
        if state["first"] is not None:
            Topology(self.active.shape, *state["first"])  # looks at what the file had
        self.loads = self.module.loads
        self.first = state["first"]
        self.changes, self.facts = dict(state["changes"]), dict(state["facts"])
        device = self.parameter.device
        self.tracked = {name: tensor.to(device, copy=True) for name, tensor in state["tracked"].items()}
        self.module.set_kernel(state["kernel"], state["reason"])


class Site(LayerSite[SparseLayer]):
    """A layer that holds its nonzeros only. Scores and index maps run over the active weights `[nnz]` in row-major
    order."""

    @property
    def weight(self) -> Tensor:
        """Active weights, `[nnz]`."""
        return self.module.values.detach()[: self.nnz]

    @property
    def grad(self) -> Tensor | None:
        """Gradient of the active weights, `[nnz]`, after a backward pass."""
        grad = self.module.values.grad
        return None if grad is None else grad[: self.nnz]

    def settle(self, change: Transaction, states: States, followers: Sequence[SparseLayer]) -> "Site":
        return self

    def dense_gradient(self) -> Tensor:
        return parallel.total(self.probe.dense_gradient())

    def rewire(
        self,
        keep: Tensor,
        grow: Tensor,
        kept: int,
        capacity: int,
        change: Transaction,
        states: States,
        followers: Sequence[SparseLayer],
    ) -> bool:
        """Drops the active weights whose `keep` is False, so that `kept` remain, and adds weights of value 0 at the
        coordinates `grow`; moves optimizer state, gradient and followers along. Returns whether the capacity
        changed."""
        old = self.active
        self.check_followers(followers)
        if capacity == old.capacity and not grow.numel() and kept == old.nnz:
            self.note_change(old.nnz, old.nnz)
            return False
        topology, index_map = old.rewire(keep, grow, capacity=capacity, kept=kept)
        self.module = change.layer(self.module)
        self.module.set_topology(topology)  # first: making the index takes room of its own
        carry(change, states, self.module, index_map)
        for follower in map(change.layer, followers):
            carry_values(change, follower, index_map)
            follower.set_topology(topology.clone())
        self.note_change(old.nnz, kept)
        return topology.capacity != old.capacity

    def fit(self, state: dict[str, Any], change: Transaction, states: States, followers: Sequence[SparseLayer]) -> None:
        capacity = state.get("capacity", self.active.capacity)
        if capacity != self.active.capacity:
            none = self.active.coordinates()[:0]
            stays = torch.ones(self.nnz, dtype=torch.bool, device=none.device)
            self.rewire(stays, none, self.nnz, capacity, change, states, followers)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "capacity": self.active.capacity}

    def check_loaded(self, optimizer: torch.optim.Optimizer) -> None:
        if self.loads != self.module.loads and optimizer.state.get(self.module.values):
            raise RuntimeError(
                f"{self.name} got another pattern from a state dict, but the optimizer's state belongs to the old one: "
                "load the state of the Sparsifier, too, or build a new optimizer"
            )
        self.loads = self.module.loads

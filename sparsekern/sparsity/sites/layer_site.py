"""A site: one layer with a pattern, as methods see it."""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ...nn import PatternLayer, Probe, planned
from ...nn.masked import Gradient
from ...nn.probe import Needs
from ...shards import is_sharded, put, whole
from ...topology import Topology
from ..change.optimizer_layout import States, state_of
from ..change.transaction import Transaction
from .checksum import checksum
from .entries import Entries

if TYPE_CHECKING:
    from .nonzeros import NonzerosSite

Layer = TypeVar("Layer", bound=PatternLayer)


class Companions(NamedTuple):
    """What else a change of pattern moves: the optimizer's state of the weights, and the layer in copies of the model
    that follow it. `change` collects all of it."""

    change: Transaction
    states: States
    followers: Sequence[Any]


class LayerSite(Generic[Layer]):
    """One layer with a pattern, however it stores its weight.

    Attributes:
        optimizer: the optimizer of the weight.
        tracked: statistics per weight that the method's rule keeps, tensors by name.
        facts: figures of the last change that the method's rule reports. 0-d tensors are read by the host only when
            they are asked for.
        first: the first pattern; None as long as it is the active one.
        changes: flips and intersection over union of the last change.
        altered: whether the last gradient was no multiple of the one that its moment was recorded of, 0-d bool; None
            if it is known to be one.
        change: the transaction of a draft of the site.
        reached: whether the weight got a gradient in the last step.
    """

    altered: Tensor | None = None
    change: Transaction | None = None
    reached = False

    def __init__(self, name: str, module: Layer) -> None:
        self.name, self.module = name, module
        self.loads = module.loads
        self.optimizer: torch.optim.Optimizer | None = None
        self.tracked: dict[str, Tensor] = {}
        self.facts: dict[str, float | Tensor] = {}
        self.changes: dict[str, Any] = {"flips": 0, "iou_last": 1.0}
        self.first: Entries | None = None

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
    def weight_parameters(self) -> list[nn.Parameter]:
        """The Parameters that the weight is made of."""
        return self.module.weight_parameters

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
        shape = self.parameter.shape
        return {key: whole(t) for key, t in state.items() if isinstance(t, Tensor) and t.shape == shape}

    @torch.no_grad()
    def write(self, weight: Tensor) -> None:
        """Sets the weight to these values, between changes of pattern."""
        put(self.parameter, weight)

    @torch.no_grad()
    def write_gradient(self, gradient: Tensor) -> None:
        """Sets the gradient of the Parameter to what has become of `grad`."""
        if (own := self.parameter.grad) is not None:
            put(own, gradient)

    @property
    def learns(self) -> bool:
        """Whether the weight requires a gradient."""
        return self.parameter.requires_grad

    @property
    def missed(self) -> bool:
        """Whether the layer was armed for this step, but no gradient reached it."""
        probe = self.module.probe
        return probe is not None and not probe.reached

    # ---- statistics of an armed step

    def prepare(self, needs: Needs | None, gradient: Gradient) -> None:
        """Prepares the layer for the coming step.

        Args:
            needs: what the layer records of its inputs and output gradients; None: nothing.
            gradient: the `weight_gradient` that a layer with a dense weight computes.
        """
        self.disarm() if needs is None else self.arm(needs)
        self.forget()
        if self.module.probe is not None:
            self.module.probe.passes.elsewhere = is_sharded(self.parameter)

    def arm(self, needs: Needs = "pairs") -> None:
        self.module.probe = self.module.new_probe()
        self.module.probe.needs = needs

    def disarm(self) -> None:
        if self.module.probe is not None:  # modules set attributes slowly
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
        """Returns the dense gradient of this step, the sum over samples of the squares of their gradients, and the
        number of samples."""
        raise NotImplementedError

    def refuse_gradient(self) -> None:
        """Raises the error of a gradient that was `altered`."""
        raise RuntimeError(
            f"the gradient of {self.name} is not a multiple of the gradient whose second moment was recorded: clip it "
            "by its norm, not by value, and leave penalties on weights to the optimizer's weight decay"
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
        """Sets the weight to these values together with the change of pattern."""
        if self.change is None:
            raise RuntimeError(f"the pattern of {self.name} does not change at the moment")
        self.change.copy(self.parameter if weight.shape == self.parameter.shape else self.weight, weight)

    def note_change(self, before: Topology, common: int) -> None:
        """Notes flips and overlap of a change that kept `common` weights of the pattern `before` it."""
        union = before.nnz + self.nnz - common
        if self.first is None and union > common:
            self.first = Entries.of(before)
        self.changes = {"flips": union - common, "iou_last": common / max(1, union)}

    def iou_first(self) -> float:
        """Returns the intersection over union of the active pattern and the first one."""
        first, common = (self.nnz, self.nnz) if self.first is None else self.first.shared_with(self.active)
        return common / max(1, first + self.nnz - common)

    def extra_tensors(self) -> list[Tensor]:
        """Returns the tensors that are kept for the layer's weights beside the layer and the optimizer."""
        return [*self.tracked.values(), *(() if self.first is None else self.first.tensors)]

    def measures(self) -> dict[str, float]:
        """Returns what a report says beyond the pattern."""
        return {name: fact.item() if isinstance(fact, Tensor) else fact for name, fact in self.facts.items()}

    def check_loaded(self, optimizer: torch.optim.Optimizer) -> None:
        """Raises a `RuntimeError` if the optimizer's state belongs to other weights than a loaded pattern has."""

    def settle(self, along: Companions) -> "NonzerosSite":
        """Ends all changes of pattern: the layer holds its nonzeros only. Returns the site that takes this one's
        place."""
        raise NotImplementedError

    # ---- files

    def state(self) -> dict[str, Any]:
        return {
            "nnz": self.nnz,
            "pattern": checksum(self.active),
            **planned.state_of(self.module),
            "changes": self.changes,
            "facts": LayerSite.measures(self),
            "unchanged": self.first is None,
            "first": (self.first or Entries.of(self.active)).csr(),
            "tracked": self.tracked,
            "capacity": self.active.capacity,
        }

    def fit(self, state: dict[str, Any], along: Companions) -> None:
        """Gives the layer the capacity that it has in a saved state."""

    def load_state(self, state: dict[str, Any]) -> None:
        first = Entries(self.active.cols)
        if state["first"] is not None:
            first = Entries.of(Topology(self.active.shape, *state["first"]))  # raises if the file is damaged
        self.loads = self.module.loads
        self.first = None if state.get("unchanged") else first
        self.changes, self.facts = dict(state["changes"]), dict(state["facts"])
        device = self.parameter.device
        self.tracked = {name: tensor.to(device, copy=True) for name, tensor in state["tracked"].items()}
        planned.load(self.module, state)

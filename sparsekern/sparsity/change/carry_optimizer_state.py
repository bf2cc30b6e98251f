"""Moves optimizer state along with the weights in a change of pattern.

Momentum, second moments, the gradient and whatever else an optimizer keeps for each weight follow the weight to its new
position. A grown weight gets the state that the optimizer would create for a new Parameter.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...nn import PatternLayer
from ...nn.marks import hand_on_marks
from ...topology import Topology
from .moves import Moves
from .optimizer_layout import Entry, States
from .transaction import Transaction


@torch.no_grad()
def carry(
    change: Transaction,
    states: States,
    layer: Any,
    followers: Sequence[Any],
    topology: Topology,
    moves: Moves,
    parked: bool = False,
) -> None:
    """Gives the draft of a layer another pattern, and moves values, gradient and the optimizer's state.

    The optimizer's state are its tensors of the shape of `values`, whatever its class. A grown weight starts at 0, with
    the state that the optimizer's own first step would create. Where the new pattern has more or less room, a new
    Parameter takes the place of the old one in the layer and in the optimizer; otherwise all tensors stay the same.

    Args:
        followers: drafts of copies of the layer, whose values move, too.
        parked: the pattern is soon to get less room.
    """
    old, room = layer.values, topology.capacity
    fresh, entries = _Fresh(old), states.alike(old)
    install = PatternLayer.park_topology if parked else PatternLayer.set_topology
    install(layer, topology)  # first: building the index takes memory of its own
    if room == old.numel():
        held = [(tensor, 0.0) for each in (layer, *followers) for tensor in _writable(change, each.values)]
        change.move(moves, [*held, *((entry.tensor, fresh.of(entry)) for entry in entries)])
    else:
        for each in (layer, *followers):
            grad = None if each.values.grad is None else moves.moved(each.values.grad, 0.0, room)
            put_values(change, each, moves.moved(each.values.detach(), 0.0, room), grad)
        hand_over(change, states, old, layer.values, entries, lambda e: moves.moved(e.tensor, fresh.of(e), room))
    for follower in followers:
        install(follower, topology.clone())


def _writable(change: Transaction, parameter: nn.Parameter) -> list[Tensor]:
    """Returns values and gradient of a Parameter. A gradient that can't be written to is exchanged for a copy."""
    grad = parameter.grad
    if grad is None:
        return [parameter]
    if grad.is_inference() or not grad.is_contiguous():
        grad = grad.clone(memory_format=torch.contiguous_format)
        change.call(setattr, parameter, "grad", grad)
    return [parameter, grad]


class _Fresh:
    """What optimizers create for a new weight; each is asked once."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self._found: dict[Optimizer, dict[str, Tensor]] = {}

    def of(self, entry: Entry) -> float | Tensor:
        if entry.optimizer not in self._found:
            self._found[entry.optimizer] = fresh_state(entry.optimizer, self.parameter) or {}
        return self._found[entry.optimizer].get(entry.key, 0.0)


def hand_over(
    change: Transaction,
    states: States,
    old: nn.Parameter,
    new: nn.Parameter,
    entries: list[Entry],
    moved: Callable[[Entry], Tensor],
) -> None:
    """Replaces the optimizer's entries for a weight by what `moved` makes of them, and the `old` Parameter by the `new`
    one if that is another."""
    for entry in entries:
        tensor = moved(entry)
        if new is old:
            change.copy(entry.tensor, tensor)
        else:
            change.contents(entry.container)[entry.key] = tensor
    if new is not old:
        states.replace(change, old, new)


def put_values(change: Transaction, layer: Any, values: Tensor, grad: Tensor | None) -> None:
    """Gives a layer's draft these values, in a new Parameter if they are more or fewer than before."""
    parameter = layer.values
    if values.shape == parameter.shape:
        change.copy(parameter, values)
        change.call(setattr, parameter, "grad", grad)
    else:
        layer.values = nn.Parameter(values, requires_grad=parameter.requires_grad)
        layer.values.grad = grad
        hand_on_marks(parameter, layer.values)


@cache
def _settings(kind: type[Optimizer]) -> frozenset[str] | None:
    """Returns the names that an optimizer's constructor takes; None: all names."""
    parameters = inspect.signature(kind).parameters
    return None if any(each.kind is each.VAR_KEYWORD for each in parameters.values()) else frozenset(parameters)


def fresh_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor] | None:
    """Returns the state that the optimizer creates for a new weight of value and gradient 0, a 0-d tensor for each
    name. None: a twin of the optimizer can't be built from its settings."""
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    probe = nn.Parameter(torch.zeros(1, dtype=parameter.dtype, device=parameter.device))
    probe.grad = torch.zeros_like(probe)
    taken = _settings(type(optimizer))
    settings = {k: v for k, v in group.items() if k in optimizer.defaults and (taken is None or k in taken)}
    try:
        twin = type(optimizer)([probe], **settings)
        twin.step()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # of a wrapper of another optimizer, or of one that needs a closure
        return None
    return {k: v.squeeze(0) for k, v in twin.state[probe].items() if isinstance(v, Tensor) and v.shape == probe.shape}

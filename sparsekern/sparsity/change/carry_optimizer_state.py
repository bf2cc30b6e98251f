"""Moves optimizer state along with the weights in a change of pattern.

Momentum, second moments, the gradient and whatever else an optimizer keeps for each weight follow the weight to its new
position. A grown weight gets the state that the optimizer would create for a new Parameter.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...nn.marks import hand_on_marks
from ...shards import sharded_as, whole
from .optimizer_layout import Entry, States, paths
from .transaction import Transaction

# What becomes of a tensor of a layer, and what is in it for a new weight, or none.
Move = Callable[[Tensor, float | Tensor], Tensor]


@torch.no_grad()
def carry(change: Transaction, states: States, layer: Any, move: Move) -> None:
    """Moves the values of a layer's draft, the gradient, and the optimizer's state.

    The optimizer's state are its tensors of the shape of `values`, whatever its class. A grown weight starts at 0, with
    the state that the optimizer's own first step would create. Where the result is longer or shorter than the
    Parameter, a new Parameter takes its place in the layer and in the optimizer.
    """
    parameter, fresh = layer.values, {}

    def moved(entry: Entry) -> Tensor:
        if entry.optimizer is None:  # an average of the weight
            return move(entry.tensor, 0.0)
        if entry.optimizer not in fresh:
            fresh[entry.optimizer] = fresh_state(entry.optimizer, parameter) or {}
        return move(entry.tensor, fresh[entry.optimizer].get(entry.path, 0.0))

    entries = [entry for entry in states.of(parameter) if entry.tensor.shape == parameter.shape]
    carry_values(change, layer, move)
    hand_over(change, states, parameter, layer.values, entries, moved)


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
            change.contents(entry.container)[entry.key] = tensor = sharded_as(tensor, old)
            change.shrunk.append(tensor)
    if new is not old:
        states.replace(change, old, new)


@torch.no_grad()
def carry_values(change: Transaction, layer: Any, move: Move) -> None:
    """Moves the values of a layer's draft and its gradient."""
    parameter = layer.values
    grad = None if parameter.grad is None else move(parameter.grad, 0.0)
    put_values(change, layer, move(parameter, 0.0), grad)


def put_values(change: Transaction, layer: Any, values: Tensor, grad: Tensor | None) -> None:
    """Gives a layer's draft these values, in a new Parameter if they are more or fewer than before."""
    parameter = layer.values
    values, grad = sharded_as(values, parameter), None if grad is None else sharded_as(grad, parameter)
    if values.shape == parameter.shape:
        change.copy(parameter, values)
        change.call(setattr, parameter, "grad", grad)
    else:
        layer.values = nn.Parameter(values, requires_grad=parameter.requires_grad)
        layer.values.grad = grad
        hand_on_marks(parameter, layer.values)
        change.shrunk += [layer.values] if grad is None else [layer.values, grad]


def by_map(index_map: Tensor) -> Move:
    """Moves weights by an int32 tensor `[new capacity]`, the old position of each new one, -1 for a grown weight."""

    def moved(tensor: Tensor, fill: float | Tensor) -> Tensor:
        tensor = whole(tensor.detach())
        moved = tensor[index_map.clamp(min=0)] if tensor.numel() else tensor.new_zeros(index_map.shape)
        return moved.masked_fill_(index_map < 0, fill)

    return moved


@cache
def _settings(kind: type[Optimizer]) -> frozenset[str] | None:
    """Returns the names that an optimizer's constructor takes; None: all names."""
    parameters = inspect.signature(kind).parameters
    return None if any(each.kind is each.VAR_KEYWORD for each in parameters.values()) else frozenset(parameters)


def fresh_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor] | None:
    """Returns the state that the optimizer creates for a new weight of value and gradient 0, a 0-d tensor for each of
    its `paths`. None: a twin of the optimizer can't be built from its settings."""
    state = _first_state(optimizer, parameter, 1)
    return None if state is None else {path: x.squeeze(0) for path, x in state.items() if x.shape == (1,)}


def of_a_matrix(optimizer: Optimizer, parameter: Tensor) -> bool:
    """Returns whether the optimizer keeps another kind of state for a dense weight than for a vector: factors of rows
    and columns (Adafactor), a preconditioner for each dimension (Kron)."""
    states = [_first_state(optimizer, parameter, dims) for dims in (1, parameter.dim())]
    return all(state is not None for state in states) and states[0].keys() != states[1].keys()  # type: ignore[union-attr]


def _first_state(optimizer: Optimizer, parameter: Tensor, dims: int) -> dict[str, Tensor] | None:
    """Returns the tensors, by their paths, that the optimizer's first step makes for a weight of one entry."""
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    probe = nn.Parameter(torch.zeros((1,) * dims, dtype=parameter.dtype, device=parameter.device))
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
    return paths(twin.state[probe])

"""The state dict of an optimizer of sparse weights: entries `[nnz]`, whatever the capacity."""

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...nn import SparseLayer
from ...shards import is_sharded, sharded_as, whole
from ..change.optimizer_layout import States, nested
from ..sites.layer_site import LayerSite


def compact_state_dict(optimizer: torch.optim.Optimizer, sites: Sequence[LayerSite]) -> dict[str, Any]:
    """Returns the optimizer's state dict, with entries `[nnz]` for sparse weights. "nested" holds the state of
    optimizers inside it, "lists" other tensors that it keeps for each Parameter."""
    lengths, inner, lists = _lengths(optimizer, sites), nested(optimizer)[1:], States(optimizer).lists()
    own = optimizer.state_dict()
    if not _has_standard_layout(own):  # its state would be known by what no other process knows
        numbers = itertools.count()
        groups = [{**group, "params": [next(numbers) for _ in group["params"]]} for group in optimizer.param_groups]
        own = {"state": _by_number(optimizer, optimizer), "param_groups": groups}
    packed = {**own, "state": _each(own["state"], lengths, _drop_slack)}
    if inner:
        packed["nested"] = [_each(_by_number(each, optimizer), lengths, _drop_slack) for each in inner]
    if lists:
        packed["lists"] = {
            path: _each(dict(enumerate(tensors)), lengths, _drop_slack) for path, tensors in lists.items()
        }
    return packed


def load_compact_state_dict(
    optimizer: torch.optim.Optimizer, sites: Sequence[LayerSite], packed: dict[str, Any]
) -> None:
    """Loads what `compact_state_dict` returned into an optimizer of weights of any capacity.

    Raises:
        ValueError: it is of an optimizer with others inside it than this one has.
    """
    lengths, insides, held = _lengths(optimizer, sites), nested(optimizer)[1:], States(optimizer)
    inner, lists = packed.get("nested", []), packed.get("lists", {})
    if len(inner) != len(insides):
        raise ValueError(
            f"the optimizer has {len(insides)} optimizers inside it, but the state is of one with {len(inner)}"
        )
    shared = [each for each in insides if each.param_groups is optimizer.param_groups]
    own = {key: value for key, value in packed.items() if key not in ("nested", "lists")}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    own["state"] = _placed_like_shards(_each(packed["state"], lengths, _add_slack), parameters)
    if _has_standard_layout(optimizer.state_dict()):
        optimizer.load_state_dict(own)
    else:
        for group, settings in zip(optimizer.param_groups, own["param_groups"], strict=True):
            group.update({key: value for key, value in settings.items() if key != "params"})
        insides, inner = [*insides, optimizer], [*inner, packed["state"]]
    for each in shared:  # as the wrapper had it: what a scheduler sets reaches those inside
        each.param_groups = optimizer.param_groups
    for each, states in zip(insides, inner, strict=True):
        each.state.clear()
        for number, state in _placed_like_shards(_each(states, lengths, _add_slack), parameters).items():
            each.state[parameters[number]] = {k: _beside(v, parameters[number]) for k, v in state.items()}
    held.set_lists({path: _each(tensors, lengths, _add_slack) for path, tensors in lists.items()})


def _has_standard_layout(state_dict: dict[str, Any]) -> bool:
    return {"state", "param_groups"} <= state_dict.keys()


def _by_number(optimizer: torch.optim.Optimizer, outer: torch.optim.Optimizer) -> dict[int, Any]:
    """Returns an optimizer's state by the numbers that the Parameters have in the outer one."""
    parameters = [p for group in outer.param_groups for p in group["params"]]
    return {i: dict(optimizer.state[p]) for i, p in enumerate(parameters) if p in optimizer.state}


def _beside(value: Any, parameter: Tensor) -> Any:
    """Returns a copy on the device of the Parameter. Scalars, such as a count of steps, stay where they are."""
    return value.to(parameter.device, copy=True) if isinstance(value, Tensor) and value.dim() else copy.copy(value)


def _placed_like_shards(states: dict[int, Any], parameters: Sequence[Tensor]) -> dict[int, Any]:
    """Returns states, by the numbers of Parameters, sharded as these are."""

    def placed(value: Any, parameter: Tensor) -> Any:
        if not isinstance(value, Tensor) or is_sharded(value) == is_sharded(parameter):
            return value
        return sharded_as(whole(value), parameter) if value.shape == parameter.shape else value

    return {i: {k: placed(v, parameters[i]) for k, v in state.items()} for i, state in states.items()}


def _each(entries: dict[int, Any], lengths: dict[int, tuple[int, int]], change: Callable[..., Any]) -> dict[int, Any]:
    """Changes state, by the numbers of Parameters, where these hold nonzeros only."""

    def changed(value: Any, length: tuple[int, int]) -> Any:
        if isinstance(value, dict):
            return {key: changed(part, length) for key, part in value.items()}
        return change(value, *length)

    return {i: changed(own, lengths[i]) if i in lengths else own for i, own in entries.items()}


def _lengths(optimizer: torch.optim.Optimizer, sites: Sequence[LayerSite]) -> dict[int, tuple[int, int]]:
    """Returns (nnz, capacity) of every weight that is stored as nonzeros, by its number in the optimizer."""
    own = {id(s.parameter): (s.nnz, s.active.capacity) for s in sites if isinstance(s.module, SparseLayer)}
    order = [p for group in optimizer.param_groups for p in group["params"]]
    return {i: own[id(p)] for i, p in enumerate(order) if id(p) in own}


def _drop_slack(value: Any, nnz: int, capacity: int) -> Any:
    if not isinstance(value, Tensor) or value.shape != (capacity,):
        return value
    return sharded_as(whole(value)[:nnz], value) if is_sharded(value) else value[:nnz].clone()


def _add_slack(value: Any, nnz: int, capacity: int) -> Any:
    if not isinstance(value, Tensor) or value.shape != (nnz,):
        return value
    value = whole(value)
    return torch.cat([value, value.new_zeros(capacity - nnz)])

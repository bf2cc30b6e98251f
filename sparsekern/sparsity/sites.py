"""The layers of a model as sites, and the optimizer's state of their weights as files hold it."""

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import MaskedLayer, PatternLayer, SparseLayer
from ..topology import Topology
from . import parallel
from .master import MasterSite, ParkedSite
from .method import Method
from .passes import ArmedStep, Batches, GrowthBatches
from .site import LayerSite, Site
from .starts import Loss
from .states import States, nested
from .wrappers import check_managed, own_modules

KINDS: dict[str, tuple[type[PatternLayer], Any]] = {
    "nonzeros": (SparseLayer, Site),
    "master": (MaskedLayer, MasterSite),
    "parked": (SparseLayer, ParkedSite),
}


def sites_of(model: nn.Module, method: Method) -> list[Any]:
    """A site for every layer of the kind that the method drives.

    Raises:
        ValueError: the model has none, or `DistributedDataParallel` was wrapped around it before it had them.
    """
    kind, site = KINDS["nonzeros" if method.storage == "dense" else method.storage]
    layers = list(own_modules(model))
    sites = [site(name, layer) for name, layer in layers if isinstance(layer, kind)]
    if not sites and method.storage == "master":  # of a run whose layers have shed what is absent
        sites = [Site(name, layer) for name, layer in layers if isinstance(layer, SparseLayer)]
    if not sites and method.storage != "dense":
        what = "layer with a dense weight and a mask" if method.storage == "master" else "sparse layer"
        raise ValueError(f"the model has no {what}: call sparsify(model, {method.name}) first")
    check_managed(model, [site.parameter for site in sites])
    return sites


def passes_of(model: nn.Module, method: Method, batches: Batches | None, loss: Loss | None) -> ArmedStep:
    """The backward passes that the method's growth takes its statistics from.

    Raises:
        ValueError: it wants batches of its own, and there are none.
    """
    count = method.grow.batches if method.grow is not None else 1
    if count == 1:
        return ArmedStep(model, watches=method.grow is not None and method.grow.inputs)
    if batches is None or loss is None:
        raise ValueError(
            f"{method.name} grows by the gradients of {count} batches: pass Sparsifier(batches=, loss=), batches an "
            "iterable of (x, y) or a function of the step"
        )
    return GrowthBatches(model, batches, loss, count)


def followers_of(model: nn.Module, sites: Sequence[LayerSite]) -> dict[str, PatternLayer]:
    """The layers of a copy of the model that belong to the sites.

    Raises:
        ValueError: one is missing or has another pattern.
    """
    layers: dict[str, PatternLayer] = {}
    for _, module in own_modules(model):  # the copy may lie in a wrapper of its own
        own = {name: layer for name, layer in own_modules(module) if isinstance(layer, PatternLayer)}
        layers = layers or own
        if all(site.name in own for site in sites):
            layers = own
            break
    for site in sites:
        layer = layers.get(site.name)
        if layer is None or type(layer) is not type(site.module):
            raise ValueError(f"a follower lacks the sparse layer {site.name}: copy it from the model after sparsify")
        if not layer.topology.same_pattern(site.active):
            raise ValueError(f"a follower's {site.name} has another pattern than the model's: copy it again")
    return layers


def share_patterns(sites: Sequence[LayerSite]) -> None:
    """Gives every layer the pattern that it has on rank 0, whose weights `DistributedDataParallel` gave it.

    Raises:
        ValueError: a layer has room for another number of weights there.
    """
    if parallel.ranks() == 1:
        return
    for site in sites:
        own = site.active
        capacity = int(parallel.of_first(torch.tensor([own.capacity], device=own.device)))
        if capacity != own.capacity:
            raise ValueError(
                f"{site.name} has room for {own.capacity} weights on rank {parallel.rank()}, for {capacity} on rank 0: "
                "make it of the same topology on every rank"
            )
        common = Topology(own.shape, parallel.of_first(own.row_ptr), parallel.of_first(own.col))
        if not common.same_pattern(own):
            site.module.set_topology(common)


def pack(optimizer: torch.optim.Optimizer, sites: Sequence[LayerSite]) -> dict[str, Any]:
    """The optimizer's state dict, with entries for nonzeros `[nnz]`; "nested": those of optimizers inside it, "lists":
    other tensors that it keeps for each Parameter."""
    lengths, inner, lists = _lengths(optimizer, sites), nested(optimizer)[1:], States(optimizer).lists()
    own = optimizer.state_dict()
    if not _ordinary(own):  # its state would be known by what no other process knows
        numbers = itertools.count()
        groups = [{**group, "params": [next(numbers) for _ in group["params"]]} for group in optimizer.param_groups]
        own = {"state": _by_number(optimizer, optimizer), "param_groups": groups}
    packed = {**own, "state": _each(own["state"], lengths, _trim)}
    if inner:
        packed["nested"] = [_each(_by_number(each, optimizer), lengths, _trim) for each in inner]
    if lists:
        packed["lists"] = {path: _each(dict(enumerate(tensors)), lengths, _trim) for path, tensors in lists.items()}
    return packed


def unpack(optimizer: torch.optim.Optimizer, sites: Sequence[LayerSite], packed: dict[str, Any]) -> None:
    """Loads what `pack` returned into an optimizer of weights of any capacity.

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
    own["state"] = _each(packed["state"], lengths, _pad)
    if _ordinary(optimizer.state_dict()):
        optimizer.load_state_dict(own)
    else:
        for group, settings in zip(optimizer.param_groups, own["param_groups"], strict=True):
            group.update({key: value for key, value in settings.items() if key != "params"})
        insides, inner = [*insides, optimizer], [*inner, packed["state"]]
    for each in shared:  # as the wrapper had it: what a scheduler sets reaches those inside
        each.param_groups = optimizer.param_groups
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for each, states in zip(insides, inner, strict=True):
        each.state.clear()
        for number, state in _each(states, lengths, _pad).items():
            each.state[parameters[number]] = {k: _beside(v, parameters[number]) for k, v in state.items()}
    held.set_lists({path: _each(tensors, lengths, _pad) for path, tensors in lists.items()})


def _ordinary(state_dict: dict[str, Any]) -> bool:
    return {"state", "param_groups"} <= state_dict.keys()


def _by_number(optimizer: torch.optim.Optimizer, outer: torch.optim.Optimizer) -> dict[int, Any]:
    """State of an optimizer by the number that the Parameter has in the outer one."""
    parameters = [p for group in outer.param_groups for p in group["params"]]
    return {i: dict(optimizer.state[p]) for i, p in enumerate(parameters) if p in optimizer.state}


def _beside(value: Any, parameter: Tensor) -> Any:
    """A copy on the device of the Parameter; numbers, such as a count of steps, stay where they are."""
    return value.to(parameter.device, copy=True) if isinstance(value, Tensor) and value.dim() else copy.copy(value)


def _each(entries: dict[int, Any], lengths: dict[int, tuple[int, int]], change: Callable[..., Any]) -> dict[int, Any]:
    """State by the numbers of Parameters, changed where these are stored as nonzeros."""

    def changed(value: Any, length: tuple[int, int]) -> Any:
        if isinstance(value, dict):
            return {key: changed(part, length) for key, part in value.items()}
        return change(value, *length)

    return {i: changed(own, lengths[i]) if i in lengths else own for i, own in entries.items()}


def _lengths(optimizer: torch.optim.Optimizer, sites: Sequence[LayerSite]) -> dict[int, tuple[int, int]]:
    """(nnz, capacity) of every weight that is stored as nonzeros, by its number in the optimizer."""
    own = {id(s.parameter): (s.nnz, s.active.capacity) for s in sites if isinstance(s.module, SparseLayer)}
    order = [p for group in optimizer.param_groups for p in group["params"]]
    return {i: own[id(p)] for i, p in enumerate(order) if id(p) in own}


def _trim(value: Any, nnz: int, capacity: int) -> Any:
    return value[:nnz].clone() if isinstance(value, Tensor) and value.shape == (capacity,) else value


def _pad(value: Any, nnz: int, capacity: int) -> Any:
    if not isinstance(value, Tensor) or value.shape != (nnz,):
        return value
    return torch.cat([value, value.new_zeros(capacity - nnz)])

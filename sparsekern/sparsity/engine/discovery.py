"""Finds the layers of a model and of its followers that a method drives."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...nn import PatternLayer, SparseLayer
from ...shards import is_sharded
from ...topology import Topology
from .. import parallel
from ..growth.gradients import ArmedStep, GrowthBatches, GrowthSource
from ..method import Method
from ..model.overrides import Assignment, Key, assignment_of, key_of_each
from ..model.wrappers import check_managed, own_modules
from ..scoring.network import Loss
from ..sites.layer_site import LayerSite


def sites_of(model: nn.Module, method: Method, layers: Sequence[Key]) -> list[Any]:
    """Returns a site for every layer that the method drives and that has its storage.

    Args:
        layers: which layers these are, as keys of overrides; if there are none, those that `sparsify` made for the
            method, or all if it made them for one method.

    Raises:
        ValueError: the model has none, or `DistributedDataParallel` was wrapped around it before it had them; several
            parts of it were made for a method of this name; a rewinding method is to drive a part of it.
    """
    storage, modules = method.resolved_storage, dict(own_modules(model))
    patterned = {name: module for name, module in modules.items() if isinstance(module, PatternLayer)}
    assignments = {
        name: assignment for name, layer in patterned.items() if (assignment := assignment_of(layer)) is not None
    }
    own = patterned
    if layers:
        own = {name: patterned[name] for name in key_of_each(modules, patterned, layers, "layers")}
    elif not storage.prunes and any(assignment.source for assignment in assignments.values()):
        own = {name: patterned[name] for name, assignment in assignments.items() if assignment.method == method.name}
    elif len({assignment.method for assignment in assignments.values()}) > 1:
        own = {name: patterned[name] for name in _made_for(assignments, method)}
    sites = storage.sites(list(own.items()))
    if not sites and storage.prunes:
        raise ValueError(f"the model has no {storage.noun}: call sparsify(model, {method.name}) first")
    if len(own) < len(patterned) and method.rule.rewind is not None:
        raise ValueError(f"{method.name} returns the whole model to an earlier step: it cannot drive a part of it")
    check_managed(model, [site.parameter for site in sites])
    return sites


def _made_for(assignments: dict[str, Assignment], method: Method) -> list[str]:
    """Returns the layers that `sparsify` made for a method of this name."""
    own = {name: assignment for name, assignment in assignments.items() if assignment.method == method.name}
    if not own:
        names = ", ".join(sorted({assignment.method for assignment in assignments.values()}))
        raise ValueError(
            f"the model's sparse layers were made for {names}, none for {method.name}: say which ones it drives by "
            'layers=["NAME", ...]; layers="*" takes all'
        )
    sources = list(dict.fromkeys(assignment.source for assignment in own.values()))
    if len(sources) > 1:
        which = " and ".join(repr(source) if source else "the model" for source in sources)
        raise ValueError(
            f"{which} have methods called {method.name}: say which layers this one drives by layers=, or call them "
            "apart, dataclasses.replace(method, name=...)"
        )
    return list(own)


def methods_of(sites: Sequence[LayerSite], method: Method) -> dict[str, Method]:
    """Returns, by layer name, the method at the sparsity of an override, for the layers that have one."""
    made: dict[tuple[str, float], Method] = {}
    found = {}
    for site in sites:
        assignment = assignment_of(site.module)
        if assignment is not None and assignment.sparsity is not None and method.has_sparsity:
            share = assignment.key, assignment.sparsity
            found[site.name] = made[share] = made.get(share) or method.at(assignment.sparsity)
    return found


def gradients_of(model: nn.Module, method: Method, batches: GrowthSource | None, loss: Loss | None) -> ArmedStep:
    """Returns the backward passes that the method's growth takes its statistics from.

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


def followers_of(
    model: nn.Module, sites: Sequence[LayerSite], originals: Mapping[str, Topology]
) -> dict[str, PatternLayer]:
    """Returns the layers of a copy of the model that belong to the sites, by name, but for those that it shares with
    the model. They get as much room as the model's.

    Args:
        originals: patterns that sites had before the first change; a state that is yet to be loaded restores them.

    Raises:
        ValueError: one is missing or has another pattern; it is the model itself.
    """
    layers: dict[str, PatternLayer] = {}
    for _, module in own_modules(model):  # the copy may lie in a wrapper of its own, beside the model
        own = {name: layer for name, layer in own_modules(module) if isinstance(layer, PatternLayer)}
        if sites and all(own.get(site.name) is site.module for site in sites):
            continue
        layers = layers or own
        if all(site.name in own for site in sites):
            layers = own
            break
    for site in sites:
        layer = layers.get(site.name)
        if layer is None or not isinstance(site.module, type(layer)):  # fully_shard makes a class of its own
            raise ValueError(f"a follower lacks the sparse layer {site.name}: copy it from the model after sparsify")
        known = [site.active, *([originals[site.name]] if site.name in originals else [])]
        if not any(layer.topology.same_pattern(pattern) for pattern in known):
            raise ValueError(f"a follower's {site.name} has another pattern than the model's: copy it again")
        if layer.topology.same_pattern(site.active) and isinstance(layer, SparseLayer):
            _give_room(layer, site.active.capacity)
    return {site.name: layers[site.name] for site in sites if layers[site.name] is not site.module}


def _give_room(layer: SparseLayer, capacity: int) -> None:
    old = layer.topology
    if old.capacity != capacity:
        new = old.with_capacity(capacity)
        layer.values.data = new.from_csr(old.to_csr(layer.values.detach()))
        layer.set_topology(new)


def share_patterns(sites: Sequence[LayerSite]) -> None:
    """Gives every layer the pattern that it has on rank 0, whose weights `DistributedDataParallel` gave it.

    Raises:
        ValueError: a layer has room for another number of weights there, or it is sharded and has another pattern.
    """
    if parallel.ranks() == 1:
        return
    for site in sites:
        own = site.active
        capacity = parallel.shared(own.capacity)
        if capacity != own.capacity:
            raise ValueError(
                f"{site.name} has room for {own.capacity} weights on rank {parallel.rank()}, for {capacity} on rank 0: "
                "make it of the same topology on every rank"
            )
        common = Topology(own.shape, parallel.of_first(own.row_ptr), parallel.of_first(own.col))
        same = common.same_pattern(own)
        if is_sharded(site.parameter):
            if not all(parallel.gathered(same)):  # raised on all ranks: none goes on alone
                raise ValueError(
                    f"{site.name} does not have the same pattern on all ranks, which hold shards of one weight: make "
                    "it of the same topology on every rank"
                )
        elif not same:
            site.module.set_topology(common)


@torch.no_grad()
def share_weights(sites: Sequence[LayerSite]) -> None:
    """Gives every layer the weights of rank 0, which `DistributedDataParallel` does when the model is wrapped: that may
    come later, and the first pattern may be chosen before."""
    learned = [p for site in sites for p in site.weight_parameters if not is_sharded(p)]
    for parameter in learned if parallel.ranks() > 1 else ():
        parameter.copy_(parallel.of_first(parameter))

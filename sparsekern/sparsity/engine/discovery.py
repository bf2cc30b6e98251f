"""Finds the layers of a model and of its followers that a method drives."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...nn import PatternLayer
from ...topology import Topology
from .. import parallel
from ..growth.gradients import ArmedStep, Batches, GrowthBatches
from ..method import Method
from ..model.wrappers import check_managed, own_modules
from ..scoring.network import Loss
from ..sites.site import LayerSite
from ..sites.storage import Storage


def sites_of(model: nn.Module, method: Method, storage: Storage) -> list[Any]:
    """Returns a site for every layer that has the method's storage.

    Raises:
        ValueError: the model has none, or `DistributedDataParallel` was wrapped around it before it had them.
    """
    sites = storage.sites(list(own_modules(model)))
    if not sites and storage.prunes:
        raise ValueError(f"the model has no {storage.noun}: call sparsify(model, {method.name}) first")
    check_managed(model, [site.parameter for site in sites])
    return sites


def gradients_of(model: nn.Module, method: Method, batches: Batches | None, loss: Loss | None) -> ArmedStep:
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


def followers_of(model: nn.Module, sites: Sequence[LayerSite]) -> dict[str, PatternLayer]:
    """Returns the layers of a copy of the model that belong to the sites, by name.

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
        capacity = parallel.shared(own.capacity)
        if capacity != own.capacity:
            raise ValueError(
                f"{site.name} has room for {own.capacity} weights on rank {parallel.rank()}, for {capacity} on rank 0: "
                "make it of the same topology on every rank"
            )
        common = Topology(own.shape, parallel.of_first(own.row_ptr), parallel.of_first(own.col))
        if not common.same_pattern(own):
            site.module.set_topology(common)


@torch.no_grad()
def share_weights(sites: Sequence[LayerSite]) -> None:
    """Gives every layer the weights of rank 0, which `DistributedDataParallel` does when the model is wrapped: that may
    come later, and the first pattern may be chosen before."""
    for parameter in [p for site in sites for p in site.learned] if parallel.ranks() > 1 else ():
        parameter.copy_(parallel.of_first(parameter))

"""Models after FSDP2's `fully_shard`: every rank holds a part of each Parameter, and all of it while a module computes.

A change of pattern happens between the passes, when layers hold their shards. A layer that gets more or fewer weights
gets a new Parameter, which `fully_shard` has to be told.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ... import private_torch
from ...nn import MaskedLayer, PatternLayer, SparseLayer
from ...shards import is_sharded, sharded_as
from .wrappers import own_modules


def sharders(model: nn.Module) -> list[Any]:
    """Returns the modules of a model that `fully_shard` was called on. Does not import what it is made of."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return [] if fsdp is None else [module for module in model.modules() if isinstance(module, fsdp.FSDPModule)]


def sharded_layers(modules: Sequence[Any]) -> list[nn.Module]:
    """Returns the modules whose own Parameters are sharded by `modules`, on which `fully_shard` was called."""
    return [layer for module in modules for layer, *_ in private_torch.managed_shards(module)]


def reshard(modules: Sequence[Any]) -> None:
    """Lets all layers hold their shards. After a forward pass some keep whole Parameters, of which the optimizer knows
    nothing."""
    for module in modules:
        module.reshard()


def renew_shards(modules: Sequence[Any]) -> None:
    """Lets `fully_shard` gather and shard the Parameters that the layers have now."""
    for module in modules:
        for layer, name, managed in private_torch.managed_shards(module):
            if isinstance(layer, PatternLayer):
                own = private_torch.parameters(layer)
                name = name if name in own else layer.WEIGHT
                if not private_torch.manages(managed, own[name]):
                    private_torch.shard_anew(managed, name, own[name])


@torch.no_grad()
def make_room(model: nn.Module, sizes: Mapping[str, Sequence[int]]) -> None:
    """Prepares sharded layers for a state dict, given the sizes of its entries: every layer whose nonzeros are in the
    state becomes a `SparseLayer` with room for them. Parameters of layers stay the same."""
    for name, layer in own_modules(model):
        size = sizes.get(f"{name}.values" if name else "values")
        if size is None or not isinstance(layer, PatternLayer) or not is_sharded(layer.stored):
            continue
        if isinstance(layer, MaskedLayer):
            layer.shed()
        if isinstance(layer, SparseLayer) and size[0] > len(layer.values):
            empty = sharded_as(torch.zeros(size[0], dtype=layer.values.dtype, device=layer.values.device), layer.values)
            torch.utils.swap_tensors(layer.values, nn.Parameter(empty, layer.values.requires_grad))
            layer.set_topology(layer.topology.with_capacity(size[0]))
    renew_shards(sharders(model))

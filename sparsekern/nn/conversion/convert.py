"""Finding the layers of a model whose weights can be pruned, and exchanging layers."""

import fnmatch
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from ...shards import is_sharded
from ...topology import Topology
from ..layer import PatternLayer
from ..masked import Gradient, MaskedLayer
from ..sparse import SparseLayer
from .coverage import Weights, obstacle, shared_parameters
from .exchange import exchange
from .registry import MASKED, SPARSE, is_wanted, registered_class, sparse_class
from .splitting import join


def prunable_layers(model: nn.Module, exclude: Iterable[str] = (), include: Iterable[str] = ()) -> dict[str, nn.Module]:
    """Returns the layers of `model` whose classes are registered (`register_layer`), dense, sparse or masked, by name;
    each once.

    Subclasses that override what a layer does are left alone; so are weights that two modules share, and such as are
    computed from other Parameters.

    Args:
        exclude: names and glob patterns of layers to leave dense, or of modules around them.
        include: names of layers of classes that are left dense by default (`register_layer`).

    Raises:
        ValueError: a pattern of `exclude` matches no layer, nothing prunable remains, or a layer waits for its first
            input to know its shape.
    """
    shared = shared_parameters(model)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, PatternLayer) or (registered_class(module) in SPARSE and is_wanted(name, module, include))
    }
    for name, module in model.named_modules():
        if any(isinstance(p, UninitializedParameter) for p in module.parameters(recurse=False)):
            raise ValueError(f"{name or 'the model'} ({type(module).__name__}) has no shape yet: run one batch first")
    gone = matching(layers, exclude, "exclude")
    chosen = {n: layer for n, layer in layers.items() if n not in gone and obstacle(layer, shared) is None}
    if not chosen:
        why = "exclude leaves" if gone else "the model has"
        raise ValueError(f"{why} no linear layer or convolution to make sparse; {Weights(model)}")
    return chosen


def matching(layers: Iterable[str], patterns: Iterable[str], what: str) -> set[str]:
    """The names that match one of `patterns`, names and globs of layers or of modules around them.

    Raises:
        ValueError: one of them matches none.
    """
    names, found = list(layers), set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        own = {name for name in names if any(fnmatch.fnmatchcase(name, p) for p in (pattern, f"{pattern}.*"))}
        if not own:
            raise ValueError(f"{what} pattern {pattern!r} matches none of the layers {', '.join(names) or '(none)'}")
        found |= own
    return found


def sparse_twin(layer: nn.Module, topology: Topology, backend: str = "auto") -> SparseLayer:
    """The layer that holds its nonzeros only, on `topology`, with the weights of a dense, sparse or masked one, as
    `SparseLayer.from_topology`."""
    return sparse_class(layer).from_topology(layer, topology, backend=backend)


def masked_twin(
    layer: nn.Module, topology: Topology, backend: str = "auto", weight_gradient: Gradient = "dense"
) -> MaskedLayer:
    """Returns a masked layer on `topology` whose master weight is the weight of `layer`."""
    kind: Any = registered_class(layer)
    return MASKED[kind].from_topology(layer, topology, backend=backend, weight_gradient=weight_gradient)


def densify(model: nn.Module) -> nn.Module:
    """Exchanges every sparse or masked layer for an ordinary dense one, zeros in place; returns the model. Hooks,
    attributes and marks stay, as with `sparsify`, and so do the classes of the layers.

    Raises:
        ValueError: a layer is sharded.

    Examples:
        >>> model = densify(sk.sparsify(model, 0.9))
        >>> type(model[0]).__name__, int((model[0].weight != 0).sum())
        ('Linear', 64)
    """
    return join(with_dense_layers(model))


def with_dense_layers(model: nn.Module) -> nn.Module:
    """Does what `densify` does, without joining what was split: layers keep their names."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, PatternLayer)}
    sharded = [name for name, layer in layers.items() if is_sharded(layer.stored)]
    if sharded:
        raise ValueError(f"{', '.join(sharded)} are sharded: load the model's checkpoint into one without fully_shard")
    return exchange(model, {name: layer.to_dense() for name, layer in layers.items()})

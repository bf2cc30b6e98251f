"""Finding the layers of a model whose weights can be pruned, and exchanging layers."""

import fnmatch
import warnings
from collections.abc import Iterable

from torch import nn

from ..topology import Topology
from .conv import SparseConv2d
from .layer import PatternLayer
from .linear import SparseLinear
from .masked import Gradient, MaskedConv2d, MaskedLayer, MaskedLinear
from .sparse import SparseLayer

SPARSE: dict[type[nn.Module], type[SparseLayer]] = {layer.DENSE: layer for layer in (SparseLinear, SparseConv2d)}
MASKED: dict[type[nn.Module], type[MaskedLayer]] = {layer.DENSE: layer for layer in (MaskedLinear, MaskedConv2d)}


def prunable_layers(model: nn.Module, exclude: Iterable[str] = ()) -> dict[str, nn.Module]:
    """The linear layers and 2-D convolutions of `model`, dense, sparse or masked, by name, each once.

    Subclasses of `nn.Linear` and `nn.Conv2d` are left alone, since their owners read `.weight`; so are weights that two
    modules share, and such as are computed from other Parameters.

    Args:
        exclude: names and glob patterns of layers to leave dense.

    Raises:
        ValueError: a pattern of `exclude` matches no layer, or nothing prunable remains.
    """
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    layers = {n: m for n, m in model.named_modules() if type(m) in SPARSE or isinstance(m, PatternLayer)}
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in layers):
            raise ValueError(f"exclude pattern {pattern!r} matches none of the layers {', '.join(layers) or '(none)'}")
    shared = shared_parameters(model)
    chosen = {}
    for name, layer in layers.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        if any(id(p) in shared for p in layer.parameters(recurse=False)):
            warnings.warn(f"{name} shares a parameter with another module and stays dense", stacklevel=3)
            continue
        if type(layer) in SPARSE and "weight" not in layer._parameters:
            warnings.warn(f"{name} computes its weight (weight norm, a mask?) and stays dense", stacklevel=3)
            continue
        chosen[name] = layer
    if not chosen:
        raise ValueError("the model has no linear layer or convolution to make sparse")
    return chosen


def shared_parameters(model: nn.Module) -> set[int]:
    """The ids of the Parameters that several modules hold."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return {key for key, count in owners.items() if count > 1}


def sparse_twin(layer: nn.Module, topology: Topology, backend: str = "auto") -> SparseLayer:
    """The layer that holds its nonzeros only, on `topology`, with the weights of a dense, sparse or masked one, as
    `SparseLayer.from_topology`."""
    dense = layer.DENSE if isinstance(layer, PatternLayer) else type(layer)
    kind = type(layer) if isinstance(layer, SparseLayer) else SPARSE[dense]
    return kind.from_topology(layer, topology, backend=backend)


def masked_twin(
    layer: nn.Module, topology: Topology, backend: str = "auto", weight_gradient: Gradient = "dense"
) -> MaskedLayer:
    """The layer with the weights of a dense, sparse or masked one as its master weight, of which `topology` takes part,
    as `MaskedLayer.from_topology`."""
    dense = layer.DENSE if isinstance(layer, PatternLayer) else type(layer)
    return MASKED[dense].from_topology(layer, topology, backend=backend, weight_gradient=weight_gradient)


def swap(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Puts `layer` in the place of the submodule `name`, everywhere it is used.

    Returns the model, which is `layer` itself for the name "".
    """
    if not name:
        return layer
    old = model.get_submodule(name)
    for module in list(model.modules()):
        for key, child in list(module._modules.items()):
            if child is old:
                setattr(module, key, layer)
    return model


def densify(model: nn.Module) -> nn.Module:
    """Exchanges every sparse or masked layer for an ordinary dense one, zeros in place; returns the model."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, PatternLayer):
            model = swap(model, name, layer.to_dense())
    return model

"""Finding the layers of a model whose weights can be pruned, and exchanging layers."""

import fnmatch
from collections.abc import Iterable

from torch import nn
from torch.nn.parameter import UninitializedParameter

from ...topology import Topology
from ..conv import SparseConv2d
from ..layer import PatternLayer
from ..linear import SparseLinear
from ..masked import Gradient, MaskedConv2d, MaskedLayer, MaskedLinear
from ..sparse import SparseLayer
from .coverage import Weights, obstacle, shared_parameters
from .exchange import exchange

SPARSE: dict[type[nn.Module], type[SparseLayer]] = {layer.DENSE: layer for layer in (SparseLinear, SparseConv2d)}
MASKED: dict[type[nn.Module], type[MaskedLayer]] = {layer.DENSE: layer for layer in (MaskedLinear, MaskedConv2d)}


def prunable_layers(model: nn.Module, exclude: Iterable[str] = ()) -> dict[str, nn.Module]:
    """The linear layers and 2-D convolutions of `model`, dense, sparse or masked, by name, each once.

    Subclasses of `nn.Linear` and `nn.Conv2d` are left alone, since their owners read `.weight`; so are weights that two
    modules share, and such as are computed from other Parameters.

    Args:
        exclude: names and glob patterns of layers to leave dense.

    Raises:
        ValueError: a pattern of `exclude` matches no layer, nothing prunable remains, or a layer waits for its first
            input to know its shape.
    """
    shared = shared_parameters(model)
    layers = {n: m for n, m in model.named_modules() if type(m) in SPARSE or isinstance(m, PatternLayer)}
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
    """The names that match one of `patterns`, names and globs.

    Raises:
        ValueError: one of them matches none.
    """
    names, found = list(layers), set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        own = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
        if not own:
            raise ValueError(f"{what} pattern {pattern!r} matches none of the layers {', '.join(names) or '(none)'}")
        found |= own
    return found


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


def densify(model: nn.Module) -> nn.Module:
    """Exchanges every sparse or masked layer for an ordinary dense one, zeros in place; returns the model. Hooks,
    attributes and marks stay, as with `sparsify`."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, PatternLayer)}
    return exchange(model, {name: layer.to_dense() for name, layer in layers.items()})

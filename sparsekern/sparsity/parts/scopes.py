"""Scopes choose which linear layers and convolutions of a network a method prunes, in the order of the model."""

from collections.abc import Callable

from torch import nn

from ...nn.conv import Conv2dProduct
from ...nn.conversion.registry import sparse_class
from ...nn.expanded import ConvNdProduct
from ...nn.linear import LinearProduct

Layers = dict[str, nn.Module]
Scope = Callable[[Layers], Layers]


def everything(layers: Layers) -> Layers:
    """Takes all of them."""
    return layers


def without_classifier(layers: Layers) -> Layers:
    """Takes all but the last linear layer; that one, too, if it is the only layer."""
    linear = [name for name, layer in layers.items() if issubclass(sparse_class(layer), LinearProduct)]
    return (
        {name: layer for name, layer in layers.items() if name != linear[-1]} if linear and len(layers) > 1 else layers
    )


def convolutions(layers: Layers) -> Layers:
    """Takes the convolutions; in a network without any, as `without_classifier`."""
    return {name: layer for name, layer in layers.items() if _convolves(layer)} or without_classifier(layers)


def without_first(layers: Layers) -> Layers:
    """Takes all but the first; that one, too, if it is the only layer."""
    return dict(list(layers.items())[1:]) or layers


def without_first_and_shortcuts(layers: Layers) -> Layers:
    """Takes all but the first convolution and those of shortcuts, told by "shortcut" or "downsample" in their names."""
    convolved = [name for name, layer in layers.items() if _convolves(layer)]
    dense = {name for name in convolved if "shortcut" in name or "downsample" in name} | {*convolved[:1]}
    return {name: layer for name, layer in layers.items() if name not in dense} or layers


NAMES: dict[str, Scope] = {
    "everything": everything,
    "without_classifier": without_classifier,
    "convolutions": convolutions,
}


def by_name(name: str | Scope) -> Scope:
    """Looks up a scope.

    Raises:
        ValueError: no scope has that name.
    """
    if callable(name):
        return name
    if name not in NAMES:
        raise ValueError(f"scope must be one of {', '.join(NAMES)}, got {name!r}")
    return NAMES[name]


def _convolves(layer: nn.Module) -> bool:
    return issubclass(sparse_class(layer), Conv2dProduct | ConvNdProduct)

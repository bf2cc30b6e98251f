"""The classes of layers that can be made sparse, and the classes that take their place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeAlias, cast

from torch import nn

from ..attention import SplitAttention
from ..conv import SparseConv2d
from ..conv1d import MaskedConv1d, SparseConv1d
from ..embedding import MaskedEmbedding, SparseEmbedding
from ..expanded import EXPANDED
from ..layer import PatternLayer
from ..linear import SparseLinear
from ..masked import MaskedConv2d, MaskedLayer, MaskedLinear
from ..recurrent import KINDS, MaskedMatrix, SparseMatrix, SplitRecurrent
from ..sparse import SparseLayer

LayerPair: TypeAlias = tuple[type[SparseLayer], type[MaskedLayer]]
Splitter: TypeAlias = Callable[[Any], nn.Module | None]

SPARSE: dict[type[nn.Module], type[SparseLayer]] = {}
MASKED: dict[type[nn.Module], type[MaskedLayer]] = {}
SPLITTERS: dict[type[nn.Module], Splitter] = {}
OPT_IN: set[type[nn.Module]] = set()  # classes that only become sparse where somebody names them
# What a subclass may define without becoming another layer.
HARMLESS = {"__init__", "__repr__", "extra_repr", "reset_parameters", "__init_subclass__", "__class_getitem__"}


def register_layer(kind: type[nn.Module], converter: LayerPair | Splitter, *, by_default: bool = True) -> None:
    """Lets `sparsify` make layers of a class sparse. The layers that the package supports are registered by it, too.

    Subclasses are converted along with their class if they inherit its `forward` and everything else that a layer does;
    one that does not can be registered itself. What was registered before for `kind` is replaced.

    Args:
        kind: the class of the dense layers.
        converter: either a pair of layer classes with `DENSE = kind`, a `SparseLayer` and a `MaskedLayer`; or a
            function that takes a layer of this class and returns a module of layers that are registered, such as
            `nn.Linear`, which computes the same. If that module has a method `whole()`, `densify` puts what it returns
            in its place; otherwise the module stays.
        by_default: whether `sparsify` takes such layers where nobody names them by `include` or `masks`.

    Raises:
        ValueError: the pair is of another class, or of something else than layers.

    Examples:
        A layer with two weights in one tensor, as two linear layers::

            def split(layer: Gated) -> nn.Module:
                return TwoLinear(nn.Linear(...), nn.Linear(...))  # with the weights of layer

            sk.register_layer(Gated, split)
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"expected a class of modules, got {kind!r}")
    if isinstance(converter, tuple):
        bases = (SparseLayer, MaskedLayer)
        if len(converter) != 2 or not all(issubclass(*pair) for pair in zip(converter, bases, strict=True)):
            raise ValueError(f"expected a SparseLayer and a MaskedLayer for {kind.__name__}, got {converter!r}")
        wrong = [each.__name__ for each in converter if each.DENSE is not kind]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} must have DENSE = {kind.__name__}")
        SPLITTERS.pop(kind, None)
        SPARSE[kind], MASKED[kind] = converter
    elif callable(converter):
        SPARSE.pop(kind, None)
        MASKED.pop(kind, None)
        SPLITTERS[kind] = converter
    else:
        raise ValueError(f"the converter of {kind.__name__} must be a pair of classes or a function, got {converter!r}")
    (OPT_IN.discard if by_default else OPT_IN.add)(kind)
    registered.cache_clear()


@cache
def registered(kind: type[nn.Module]) -> type[nn.Module] | None:
    """Returns the registered class that is nearest to a class of layers: itself or an ancestor."""
    return next((base for base in kind.__mro__ if base in SPARSE or base in SPLITTERS), None)


def registered_class(layer: nn.Module) -> type[nn.Module] | None:
    """Returns the class of the dense twin of a layer with a pattern, or the registered class that a dense one is of."""
    return layer.DENSE if isinstance(layer, PatternLayer) else registered(type(layer))


def sparse_class(layer: nn.Module) -> type[SparseLayer]:
    """Returns the class of the layer with nonzeros only that takes the place of a dense one, or of a masked one.

    Raises:
        KeyError: there is none.
    """
    return type(layer) if isinstance(layer, SparseLayer) else SPARSE[cast(Any, registered_class(layer))]


def is_wanted(name: str, module: nn.Module, wanted: Iterable[str]) -> bool:
    """Returns whether a layer is taken by default, or is among the names in `wanted`, or owns one that is."""
    if registered(type(module)) not in OPT_IN:
        return True
    return any(own == name or own.startswith(f"{name}.") for own in wanted)


def wanted_by_overrides(model: nn.Module, keys: Iterable[str | type[nn.Module]]) -> list[str]:
    """Returns the names of the layers that are left dense by default, and of layers in them, that keys of overrides
    name, by name or class. Globs, and modules around them, do not name them."""
    keys, found = list(keys), []
    for name, module in model.named_modules():
        if registered(type(module)) in OPT_IN:
            found += [key for key in keys if isinstance(key, str) and (key == name or key.startswith(f"{name}."))]
            found += [name for key in keys if isinstance(key, type) and isinstance(module, key)]
    return found


@cache
def behaves_like(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    """Returns whether a subclass does what its base does: it inherits each of its methods and properties."""
    return all(
        inspect.getattr_static(kind, name) is inspect.getattr_static(base, name)
        for name in dir(base)
        if name not in HARMLESS and _does_something(inspect.getattr_static(base, name))
    )


def _does_something(attribute: Any) -> bool:
    return callable(attribute) or isinstance(attribute, property | staticmethod | classmethod)


BUILT_IN: list[LayerPair] = [
    (SparseLinear, MaskedLinear),
    (SparseConv1d, MaskedConv1d),
    (SparseConv2d, MaskedConv2d),
    *EXPANDED,
    (SparseMatrix, MaskedMatrix),
]
for _pair in BUILT_IN:
    register_layer(_pair[0].DENSE, _pair)
register_layer(nn.MultiheadAttention, SplitAttention.of)
register_layer(nn.Embedding, (SparseEmbedding, MaskedEmbedding), by_default=False)
for _kind in KINDS:
    register_layer(_kind, SplitRecurrent.of, by_default=False)

"""Exchanges layers everywhere a model holds them, with all that was attached to them."""

import inspect
from collections import deque
from collections.abc import Mapping
from types import MethodType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from ... import integrations, private_torch
from ...topology import Topology
from ..layer import PatternLayer
from ..marks import hand_on_marks
from .registry import MASKED, SPARSE, registered_class

HOOKS = frozenset(name for name in vars(nn.Module()) if name.endswith("_hooks"))
HELD = ("_parameters", "_buffers", "_modules")


def exchange(model: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """Puts each of `replacements` in the place of the submodule of its name, everywhere it is used: in modules, and in
    the lists, tuples, dicts and sets among their attributes. A replacement gets the hooks, the attributes and the marks
    of what it replaces.

    Returns the model, which is the replacement itself for the name "".
    """
    pairs = {model.get_submodule(name): (name, replacement) for name, replacement in replacements.items()}
    found = {old: replacement for old, (_, replacement) in pairs.items()}
    for old, (name, replacement) in pairs.items():
        hand_on(old, replacement, name)
    model = found.get(model, model)
    seen: set[int] = set()
    for module in [*model.modules(), *found.values()]:  # a layer may hold others
        for key, value in list(vars(module).items()):
            new = _replaced(value, found, seen)
            if new is not value:
                vars(module)[key] = new
    for old, (name, replacement) in pairs.items():
        _originals.pop(replacement, None)  # perhaps it comes back
        _watch(old, name, replacement, model)
    integrations.note(model)
    return model


def _replaced(value: Any, replacements: Mapping[nn.Module, nn.Module], seen: set[int]) -> Any:
    """The value with the replacements in it; what can be changed in place is."""
    if isinstance(value, nn.Module):
        return replacements.get(value, value)
    if not isinstance(value, list | deque | dict | tuple | set) or id(value) in seen:
        return value
    if isinstance(value, tuple):
        parts = [_replaced(part, replacements, seen) for part in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    seen.add(id(value))
    if isinstance(value, set):
        for part in [part for part in value if isinstance(part, nn.Module) and part in replacements]:
            value.remove(part)
            value.add(replacements[part])
        return value
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        new = _replaced(part, replacements, seen)
        if new is not part:
            value[key] = new
    return value


def hand_on(old: nn.Module, new: nn.Module, name: str) -> None:
    """Gives `new` the hooks of `old`, whose handles then remove them from there, and whatever is no part of its class:
    attributes, Parameters, buffers and modules; and the Parameters of `new` the attributes and hooks of theirs."""
    own, there = own_names(old), vars(new)
    for key, value in list(vars(old).items()):
        if key in HOOKS:
            hooks = {
                i: _bound_to(new, hook) for i, hook in (*value.items(), *there[key].items()) if hook is not _refuse
            }
            vars(old)[key] = type(value)(value)
            value.clear()
            value.update(hooks)
            there[key] = value
        elif key in HELD:
            there[key].update({part: held for part, held in value.items() if part not in own})
        elif key not in own and key not in there:
            there[key] = _method(new, value) if getattr(value, "__self__", None) is old else value
    there["_is_full_backward_hook"] = vars(old)["_is_full_backward_hook"]
    there["_non_persistent_buffers_set"] |= vars(old)["_non_persistent_buffers_set"] - own
    if registered_class(old) not in SPARSE:
        return
    hand_on_marks(_weight(old), _weight(new), name)
    if getattr(old, "bias", None) is not None:
        hand_on_marks(old.bias, new.bias, name)


def _method(module: nn.Module, method: Any) -> Any:
    """The method of the same name, where it is one of the class; else the same function."""
    name, function = method.__name__, method.__func__
    if function is getattr(type(method.__self__), name, None) and hasattr(module, name):
        return getattr(module, name)
    return MethodType(function, module)


def _bound_to(module: nn.Module, hook: Any) -> Any:
    """A hook of state dicts that remembers its module."""
    return type(hook)(hook.hook, module) if getattr(hook, "with_module", False) else hook


def _weight(layer: Any) -> Tensor:
    if isinstance(layer, PatternLayer):
        return layer.stored
    return layer.weight if registered_class(layer) in SPARSE else next(layer.parameters())


def own_names(layer: nn.Module) -> frozenset[str]:
    """The attributes that every layer of this class has, Parameters, buffers and modules included; of a class that is
    not registered all that this one has."""
    known = {*SPARSE, *SPARSE.values(), *MASKED.values()}
    kind: Any = next((base for base in type(layer).__mro__ if base in known), None)
    return _names(layer) if kind is None else _own_names(kind, layer)


def _own_names(kind: Any, layer: Any) -> frozenset[str]:
    if kind not in _known_names:
        pattern = issubclass(kind, PatternLayer)
        settings = (kind if pattern else SPARSE[kind]).settings_of(layer)
        if pattern:
            none = Topology.from_coordinates(torch.empty(0, dtype=torch.int64), layer.weight_shape)
            example = kind(**settings, device="meta", topology=none, generator=torch.Generator())
        else:
            example = SPARSE[kind].new_dense(settings, bias=True, device="meta")
        _known_names[kind] = _names(example)
    return _known_names[kind]


def _names(layer: nn.Module) -> frozenset[str]:
    return frozenset().union(vars(layer), *(vars(layer)[part] for part in HELD))


_known_names: dict[type[nn.Module], frozenset[str]] = {}


class Original(NamedTuple):
    """A layer that was replaced.

    Attributes:
        replacement, model: what replaced it, and where.
        gradient: the gradient of its weight then, and the version of that.
    """

    name: str
    replacement: ref[nn.Module]
    model: ref[nn.Module]
    gradient: tuple[int, int] | None


_originals: WeakKeyDictionary[nn.Module, Original] = WeakKeyDictionary()


def _watch(old: nn.Module, name: str, replacement: nn.Module, model: nn.Module) -> None:
    """Lets the model no longer call a layer that was replaced. Others may: perhaps it is their dense reference."""
    if old not in _originals:
        old.register_forward_pre_hook(_refuse)
    _originals[old] = Original(name, ref(replacement), ref(model), _gradient(old))


def _refuse(module: nn.Module, inputs: Any) -> None:
    original = _originals.get(module)
    model = None if original is None else original.model()
    if original is None or model is None:
        return
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_locals.get("self") is model:
            raise RuntimeError(
                f"the model still calls the layer that {original.name} was before it was exchanged: something that is "
                "no module, list, tuple, dict or set among its attributes holds that one (an object, a bound method). "
                "Let it look the layer up in its module, or leave the layer as it is: sparsify(exclude=)"
            )
        frame = frame.f_back


def took_part(replacement: nn.Module) -> bool:
    """Whether what this layer replaced has got a gradient since."""
    return any(
        entry.replacement() is replacement and _gradient(old) not in (None, entry.gradient)
        for old, entry in _originals.items()
    )


def _gradient(layer: nn.Module) -> tuple[int, int] | None:
    gradient = _weight(layer).grad
    return None if gradient is None else (id(gradient), private_torch.version(gradient))

"""Overrides: settings of some layers, by name, glob or class. Which of them a layer falls under."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from ...nn import PatternLayer
from ...nn.conversion.splitting import MARK

Key = str | type[nn.Module]
Modules = Mapping[str, nn.Module]


class Assignment(NamedTuple):
    """A note of `sparsify` on a sparse layer: which layers share a sparsity with it, and whose method drives them.

    Attributes:
        method: the name of the method that the layer was made for.
        key: the override that took it; "" if none did.
        sparsity: that of the layers of this override together; None: that of the method.
    """

    method: str
    key: str = ""
    sparsity: float | None = None

    @property
    def source(self) -> str:
        """The override that brought the method; "" if it is the model's."""
        return self.key if self.sparsity is None else ""


Part = Assignment  # the name in older pickles


def assignment_of(layer: nn.Module) -> Assignment | None:
    return vars(layer).get("assignment")


def key_of_each(
    modules: Modules, layers: Iterable[str], keys: Iterable[Key], what: str, free: Collection[Key | None] = ()
) -> dict[str, Key]:
    """Returns the key that each of `layers` falls under, by name; those that fall under none are left out.

    A layer falls under the keys that match it: its name or that of a module around it, a glob that matches its name,
    its class or that of a module around it. Of several the most specific one counts: names come before globs and globs
    before classes; of names and classes that of the nearest module counts, of globs the first.

    Args:
        modules: all modules of the model, by name.
        what: what an error calls the keys.
        free: those that may match any module, and no layer.

    Raises:
        ValueError: no layer falls under one of the keys; those that look like it are named.
    """
    keys, layers = list(keys), list(layers)
    for key in keys:
        if not isinstance(key, str) and not (isinstance(key, type) and issubclass(key, nn.Module)):
            raise ValueError(f"{what} takes names, globs and classes of modules, got {key!r}")
    found = {name: key for name in layers if (key := _key_of(modules, name, keys)) is not None}
    for key in keys:
        if key not in found.values() and not (key in free and names_under(modules, [key], [key])):
            raise ValueError(f"{what}: {_unused(modules, layers, key, found)}")
    return found


def names_under(modules: Modules, keys: Iterable[Key | None], some: Collection[Key | None]) -> set[str]:
    """Returns the names of all modules that fall under `some` of the keys."""
    keys = [key for key in keys if key is not None]
    return {name for name in modules if (key := _key_of(modules, name, keys)) is not None and key in some}


def key_name(key: Key) -> str:
    """Returns a key as errors and reports name it."""
    return key if isinstance(key, str) else getattr(key, "__name__", repr(key))


def _key_of(modules: Modules, name: str, keys: list[Key]) -> Key | None:
    around = _around(name)
    for each in around:
        if each in keys:
            return each
    for key in keys:
        if isinstance(key, str) and fnmatchcase(name, key):
            return key
    for each in around:
        for key in keys:
            if isinstance(key, type) and each in modules and _is(modules[each], key):
                return key
    return None


def _around(name: str) -> list[str]:
    """Returns the names of a layer and of the modules around it, the nearest first."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts), 0, -1)]


def _is(module: Any, kind: type[nn.Module]) -> bool:
    """Whether a module is of a class, or took the place of one that is."""
    former = module.DENSE if isinstance(module, PatternLayer) else vars(module).get(MARK, type(module))
    return isinstance(module, kind) or issubclass(former, kind)


def _unused(modules: Modules, layers: list[str], key: Key, found: Mapping[str, Key]) -> str:
    """Returns why no layer falls under a key."""
    own = [name for name in layers if _key_of(modules, name, [key]) is not None]
    if own:
        others = ", ".join(dict.fromkeys(repr(key_name(found[name])) for name in own))
        first = "names count before globs, and the first glob does"
        return f"the layers of {key_name(key)!r} all fall under {others}: {first}"
    if not isinstance(key, str):
        kinds = sorted({type(modules[name]).__name__ for name in layers})
        return f"none of the layers is a {key_name(key)} or lies in one; their classes are {', '.join(kinds)}"
    near = _near(key, layers)
    if near != key and any(_key_of(modules, name, [near]) is not None for name in layers):
        return f"{key!r} matches none of the layers; did you mean {near!r}?"
    names = ", ".join(layers[:8]) + ", ..." * (len(layers) > 8)
    return f"{key!r} matches none of the layers {names or '(none)'}"


def _near(key: str, layers: list[str]) -> str:
    """Returns a key like this one, made of parts that names of layers have."""
    known = sorted({part for name in layers for part in name.split(".")})
    pieces = []
    for piece in key.split("."):
        core = piece.strip("*?")
        if core and not any(core == part or (core != piece and core in part) for part in known):
            piece = piece.replace(core, next(iter(get_close_matches(core, known, 1, 0.5)), core))
        pieces.append(piece)
    return ".".join(pieces)

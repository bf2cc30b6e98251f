"""Overrides of a run, as its configuration spells them: plain values that JSON can hold, in place of methods and
classes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from inspect import Parameter, signature
from typing import Any

from torch import nn

from .. import Method, methods
from ..errors import UsageError
from ..settings import fraction

KEYS = {"method", "sparsity", "distribution", "set"}
EXPECTED = (
    "an object whose keys are names, globs or classes (nn.Conv2d), and whose values are a sparsity, null, the name of "
    "a method, or an object with sparsity and distribution or with method, sparsity and set"
)
CLASSES = "nn."


def schema(value: Any) -> str | None:
    """Returns what is expected of the setting, None if `value` is that."""
    fits = isinstance(value, dict) and all(isinstance(key, str) and _fits(own) for key, own in value.items())
    return None if fits else EXPECTED


def _fits(value: Any) -> bool:
    if isinstance(value, dict):
        sparsity, other = value.get("sparsity"), "set" if "method" not in value else "distribution"
        known = set(value) <= KEYS - {other} and (sparsity is None or fraction(sparsity) is None)
        return known and bool(value) and isinstance(value.get("set", {}), dict)
    return value is None or isinstance(value, str) or fraction(value) is None


def methods_in(overrides: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields key, name and options of the methods that layers have of their own."""
    for key, value in overrides.items():
        if isinstance(value, str):
            yield key, value, {}
        elif isinstance(value, dict) and "method" in value:
            yield key, value["method"], value.get("set", {})


def built(overrides: dict[str, Any], make: Callable[..., Method], sparsity: float | None) -> dict[Any, Any]:
    """Returns the overrides that `sparsify` takes.

    Args:
        make: makes a method of its name, its sparsity and options.
        sparsity: of the run.

    Raises:
        UsageError: torch.nn has no class of a name.
    """
    found = dict(overrides)
    for key, name, options in methods_in(overrides):
        own = overrides[key].get("sparsity") if isinstance(overrides[key], dict) else None
        if (
            own is None
            and not sparsity
            and signature(methods.get(name)).parameters["sparsity"].default is Parameter.empty
        ):
            raise UsageError(f"--overrides {key}: {name} needs a sparsity, which the run has none of")
        found[key] = replace(make(name, sparsity if own is None else own, options), name=f"{name} ({key})")
    return {_key(key): value for key, value in found.items()}


def _key(text: str) -> Any:
    kind = getattr(nn, text.removeprefix(CLASSES), None) if text.startswith(CLASSES) else text
    if kind is None:
        raise UsageError(f"--overrides: torch.nn has no class {text.removeprefix(CLASSES)!r}")
    return kind

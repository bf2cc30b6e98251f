"""Layers that are split into several layers with one weight each, and joined again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from torch import nn

from ..layer import PatternLayer
from .coverage import shared_parameters
from .exchange import exchange
from .maskings import end_in_split, restore_in
from .registry import SPLITTERS, behaves_like, is_wanted, registered, wanted_by_overrides

Options = ParamSpec("Options")
MARK = "taken_apart"  # the attribute, in pickles too, that holds the class of what a module took the place of


def split(model: nn.Module, wanted: Iterable[str] = ()) -> tuple[nn.Module, dict[nn.Module, nn.Module]]:
    """Exchanges the layers that are registered with a function for what it makes of them.

    Args:
        wanted: names of layers, or of what they are split into, that are split only where they are named.

    Returns:
        The model, and what each module that it has now took the place of.
    """
    originals, shared = {}, shared_parameters(model)
    refused: set[nn.Module] = set()
    while found := {
        name: module
        for name, module in model.named_modules()
        if _splittable(module, shared) and module not in refused and is_wanted(name, module, wanted)
    }:
        made = {name: SPLITTERS[registered(type(module))](module) for name, module in found.items()}  # type: ignore[index]
        refused |= {found[name] for name, new in made.items() if new is None}
        made = {name: new for name, new in made.items() if new is not None}
        for name, new in made.items():
            vars(new)[MARK] = type(found[name])
            originals[new] = found[name]
        model = exchange(model, made)
    return model, originals


def join(model: nn.Module, originals: dict[nn.Module, nn.Module] | None = None) -> nn.Module:
    """Joins what was split, and has no sparse layers inside.

    Args:
        originals: what modules took the place of and nobody has changed since; others are made anew.
    """
    while True:
        whole: dict[str, nn.Module] = {}
        for name, module in model.named_modules():
            if MARK not in vars(module) or any(isinstance(inner, PatternLayer) for inner in module.modules()):
                continue
            original = None if originals is None else originals.get(module)
            if original is None and hasattr(module, "whole"):
                original = module.whole()  # type: ignore[operator]
            if original is not None:
                vars(original).pop(MARK, None)
                whole[name] = original
        if not whole:
            return model
        model = exchange(model, whole)


def splitting(
    convert: Callable[Concatenate[nn.Module, Options], nn.Module],
) -> Callable[Concatenate[nn.Module, Options], nn.Module]:
    """Lets a function that makes layers of a model sparse see layers with one weight each. Where all stay dense, or
    it raises, the model gets back what it had."""

    @wraps(convert)
    def wrapped(model: nn.Module, *arguments: Options.args, **options: Options.kwargs) -> nn.Module:
        masks: Any = options.get("masks")
        overrides: Any = options.get("overrides")
        options["include"] = include = named(model, options.get("include", ()))  # type: ignore[arg-type]
        keys = [key for key, value in (overrides or {}).items() if value is not None]
        wanted = [*include, *(masks if isinstance(masks, dict) else ()), *wanted_by_overrides(model, keys)]
        ended = end_in_split(model) if masks == "nonzero" else []
        model, originals = split(model, wanted)
        try:
            model = join(convert(model, *arguments, **options), originals)
        except BaseException:
            restore_in(join(model, originals), ended)
            raise
        restore_in(model, ended)
        return model

    return wrapped


def named(model: nn.Module, chosen: Iterable[str | type[nn.Module]]) -> list[str]:
    """Returns names and glob patterns, and the names of the modules of each class among them."""
    found: list[str] = []
    for one in [chosen] if isinstance(chosen, str | type) else chosen:
        own = [name for name, module in model.named_modules() if isinstance(one, type) and isinstance(module, one)]
        if isinstance(one, type) and not own:
            raise ValueError(f"the model has no {one.__name__}")
        found += own if isinstance(one, type) else [one]
    return found


def _splittable(module: nn.Module, shared: set[int]) -> bool:
    kind = registered(type(module))
    if kind not in SPLITTERS or MARK in vars(module) or "forward" in vars(module):
        return False
    return behaves_like(type(module), kind) and not any(id(parameter) in shared for parameter in module.parameters())

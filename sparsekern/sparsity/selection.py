"""Selects the layers that `sparsify` makes sparse, and their methods, and says why others stay dense."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from numbers import Real
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor, nn

from ..nn import matching, prunable_layers
from ..nn.conversion.registry import wanted_by_overrides
from ..topology import nnz_at
from .method import Method
from .methods.before import fixed
from .model.overrides import Assignment, Key, key_name, key_of_each, names_under
from .model.zeros import maskable, take_zeros
from .parts.distributions import Distribution
from .parts.schedules import constant, final
from .scoring.start import Start

CHOSEN = "left out by exclude, overrides or masks"
Override = float | Method | Mapping[str, Any] | None
Masks = dict[str, Tensor] | Literal["nonzero"] | None


class Share(NamedTuple):
    """A method for some layers, and what they note of it; None: they stay dense."""

    method: Method | None
    assignment: Assignment
    distribution: str | Distribution | None

    @property
    def driven(self) -> Method:
        """The method of layers that become sparse."""
        return cast(Method, self.method)


class Selection(NamedTuple):
    """The layers of a model that become sparse.

    Attributes:
        layers: those of each share that has any, by name.
        masks: bool tensors of the weights' shapes, True where a weight stays, of layers whose pattern is given.
        why: for the report, why the other layers stay dense, by name.
    """

    layers: dict[Key | None, dict[str, nn.Module]]
    masks: dict[str, Tensor]
    why: dict[str, str]


def select(
    model: nn.Module,
    shares: Mapping[Key | None, Share],
    masks: Masks,
    include: Iterable[str | type[nn.Module]],
    exclude: Iterable[str],
) -> Selection:
    """Selects the layers of every share. Takes the zeros of a pruned model from it if `masks` are "nonzero".

    Raises:
        ValueError: masks or an override name no layer; no layer is left.
    """
    include = cast("list[str]", list(include))
    if masks is not None and include:
        raise ValueError("masks say which layers become sparse: include adds nothing to them")
    modules, keys = dict(model.named_modules()), [key for key in shares if key is not None]
    dense = [key for key, share in shares.items() if share.method is None]
    given, why = ({}, {}) if masks is None else (masks, {})
    if isinstance(given, str):
        key_of_each(modules, maskable(model), keys, "overrides", dense)  # before anything changes
        given, why = take_zeros(model, exclude, names_under(modules, shares, dense))
    asked = [
        *include,
        *(given if masks != "nonzero" else ()),
        *wanted_by_overrides(model, [key for key in keys if key not in dense]),
    ]
    every = prunable_layers(model, include=asked)
    overridden = key_of_each(modules, every, keys, "overrides", dense)
    left = prunable_layers(model, exclude, asked) if exclude else every
    unknown = sorted(set(given) - set(left))
    if unknown:
        raise ValueError(f"masks name {', '.join(unknown)}, but the prunable layers are {', '.join(left)}")
    scope = _scope(every, shares[None].method, include) if masks is None else set(given)
    layers: dict[Key | None, dict[str, nn.Module]] = {key: {} for key in shares}
    for name, layer in left.items():
        key = overridden.get(name)
        method = shares[key].method
        if (key is not None or name in scope) and method is not None and (name in given or not method.start.given):
            layers[key][name] = layer
    layers = {key: own for key, own in layers.items() if own}
    if not layers and masks is None:
        pruning = (share.assignment.method for share in shares.values() if share.method is not None)
        names = " and ".join(dict.fromkeys(pruning))
        raise ValueError(f"exclude leaves none of the layers that {names} prunes: {', '.join(scope)}")
    method, name = shares[None].method, shares[None].assignment.method
    outside = CHOSEN if masks is not None or method is None else f"not in the scope of {name} (include= takes it)"
    reasons = {name: CHOSEN if name in scope or name in overridden else outside for name in every}
    return Selection(layers, given, reasons | why)


def _scope(layers: dict[str, nn.Module], method: Method | None, include: list[str]) -> Collection[str]:
    """Returns the names of the layers that a method prunes by itself, and of those that were asked for."""
    own = () if method is None else method.start.scope(layers)
    return {*own, *(matching(layers, include, "include") if include else ())}


def shares_of(
    method: Method | float | None,
    given: bool,
    distribution: str | Distribution | None,
    overrides: Mapping[Key, Override],
) -> dict[Key | None, Share]:
    """Returns what the layers of each override get, and under None what the others do; `given`: masks are.

    Raises:
        ValueError: `method` is none, or has no pattern to keep; an override has settings that there are not.
    """
    name = method.name if isinstance(method, Method) else "static"
    method = _method(method, given, bool(overrides))
    name = name if method is None else method.name
    shares: dict[Key | None, Share] = {None: Share(method, Assignment(name), distribution)}
    for key, value in overrides.items():
        if isinstance(value, Method):
            shares[key] = Share(_pruning(value, given), Assignment(value.name, key_name(key)), distribution)
            continue
        settings: Mapping[str, Any] = value if isinstance(value, Mapping) else {"sparsity": value}
        sparsity = settings.get("sparsity", 0.0 if method is None else final(method.sparsity))
        unknown = set(settings) - {"sparsity", "distribution"}
        if unknown or not (sparsity is None or isinstance(sparsity, Real)) or isinstance(sparsity, bool):
            raise ValueError(
                f"overrides: {key_name(key)!r} takes a sparsity, None, a Method, or a mapping with sparsity and "
                f"distribution, got {value!r}"
            )
        own = None if sparsity is None else (method or static(float(sparsity))).at(float(sparsity))
        assignment = Assignment(name, key_name(key), None if sparsity is None else float(sparsity))
        shares[key] = Share(own, assignment, settings.get("distribution", distribution))
    return shares


def _method(method: Method | float | None, given: bool, overridden: bool) -> Method | None:
    """Returns the method that is meant, where masks are `given` or not; None if it is that of overrides alone."""
    if isinstance(method, Method):
        return _pruning(method, given)
    if method is None and (given or overridden):
        return fixed() if given else None
    if not isinstance(method, Real):
        raise ValueError(f"expected a Method (sparsekern.methods.NAME(...)), a sparsity, or masks, got {method!r}")
    return static(float(method))


def _pruning(method: Method, given: bool) -> Method | None:
    """Returns a method that prunes, None for another."""
    if method.start.given and not given:
        raise ValueError(f'{method.name} keeps a pattern that is there: pass masks, "nonzero" or a dict of them')
    return method if method.resolved_storage.prunes else None


def static(sparsity: float) -> Method:
    """Returns the method of a random pattern that stays, on weights as they are."""
    nnz_at(sparsity, 1)
    return Method("static", constant(sparsity), start=Start(), again=static)

"""Translates the fields that `Method` had in version 0.1, until version 0.3."""

import copy
import inspect
import warnings
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

from .growth.growth import Growth
from .parts import views
from .parts.orders import Order
from .rule import NO_RULE
from .scoring.start import RANDOM
from .sites.storage import NONZEROS, storage_by_name

T = TypeVar("T")
START, VIEW = ("scope", "share", "initialize"), ("share", "min_per_layer")
OLD = (*START, "min_per_layer", "rate", "update", "freeze", "steps_per_epoch")


def accepts_old_fields(kind: type[T]) -> type[T]:
    """Lets the constructor of `Method` take the fields of version 0.1 as keywords, with a `DeprecationWarning`."""
    facade: Any = kind
    init = facade.__init__

    @wraps(init)
    def construct(self: Any, *arguments: Any, **fields: Any) -> None:
        given = {name: fields.pop(name) for name in OLD if name in fields}
        if given:
            where = "start= has scope, share, initialize; view= has min_per_layer, share; grow= has rate"
            warnings.warn(f"Method({', '.join(given)}) is of version 0.1: {where}", DeprecationWarning, stacklevel=2)
        init(self, *arguments, **_translated(given, fields))
        if "update" in given and self.order != given["update"]:
            raise ValueError(
                f"update={given['update']!r} does not fit: the order of this method is {self.order.value!r}"
            )

    construct.__signature__ = inspect.signature(init)  # type: ignore[attr-defined]
    facade.__init__ = construct
    return kind


def _translated(given: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Returns `fields` with those of version 0.1 in their places."""
    fields = dict(fields)
    if start := {name: given[name] for name in START if name in given}:
        fields["start"] = replace(fields.get("start") or RANDOM, **start)
    if view := {name: given[name] for name in VIEW if name in given}:
        fields["view"] = replace(fields.get("view", views.network), **view)
    grow = fields.get("grow")
    if isinstance(grow, Growth):
        replaces = {"replaces_step": True} if given.get("update") == Order.INSTEAD else {}
        fields["grow"] = replace(grow, **{name: given[name] for name in ("rate",) if name in given}, **replaces)
    if given.get("freeze") is not None:
        kind: Any = type(storage_by_name(fields.get("storage", NONZEROS)))
        fields["storage"] = kind(given["freeze"])
    if given.get("steps_per_epoch") is not None:
        fields["rule"] = copy.copy(fields.get("rule", NO_RULE))
        object.__setattr__(fields["rule"], "epoch", given["steps_per_epoch"])
    return fields

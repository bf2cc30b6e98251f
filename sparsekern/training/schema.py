"""Schemas of the files of a run: a mistake is named by file and field.

A schema is a type (`float` stands for whole numbers, too), `[schema]` for a list, `{key: schema}` for an object that
has at least these keys, None for anything, `type(None)` for null, a tuple of alternatives without members, or a
function that returns what it expected, None if it got that.
"""

from collections.abc import Iterator
from math import isfinite
from typing import Any

from ..errors import UsageError
from ..settings import brief, is_a

Schema = Any

NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


class Later:
    """A member that older files do not have."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema


def one_of(names: list[str]) -> Schema:
    return lambda value: None if value in names else " or ".join(names)


def finite(value: Any) -> str | None:
    return None if is_a(value, float) and isfinite(value) else "a finite number"


def count(value: Any) -> str | None:
    return None if type(value) is int and value >= 0 else "a whole number, 0 or more"


def check(value: Any, schema: Schema, where: str) -> None:
    """Raises a `UsageError` that names `where` and the field unless a value fits a schema."""
    for problem in problems(value, schema):
        raise UsageError(f"{where} is damaged: {problem}")


def problems(value: Any, schema: Schema, field: str = "") -> Iterator[str]:
    """Yields, for each field that does not fit, its name, what was expected, and what is there."""
    expected = _mismatch(value, schema)
    if expected is not None:
        yield f"{f'{field}: ' if field else ''}expected {expected}, got {brief(value)}"
    elif isinstance(schema, list):
        for number, item in enumerate(value):
            yield from problems(item, schema[0], f"{field}[{number}]")
    elif isinstance(schema, dict):
        for key, inner in schema.items():
            path = f"{field}.{key}" if field else key
            if key in value:
                yield from problems(value[key], inner.schema if isinstance(inner, Later) else inner, path)
            elif not isinstance(inner, Later):
                yield f"{path} is missing"


def _mismatch(value: Any, schema: Schema) -> str | None:
    """Returns what was expected of `value`, members aside; None if it is that."""
    if isinstance(schema, tuple):
        found = [_mismatch(value, part) for part in schema]
        return None if None in found else " or ".join(str(part) for part in found)
    if schema is None:
        return None
    kind = type(schema) if isinstance(schema, list | dict) else schema
    if not isinstance(kind, type):
        return kind(value)
    return None if is_a(value, kind) else NAMES.get(kind, f"a {kind.__name__}")

"""What a file has to look like: a mistake is named by file and field."""

from typing import Any

from ..errors import UsageError

NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def check(value: Any, shape: Any, where: str, field: str = "") -> None:
    """Raises a `UsageError` that names `where` and the field unless a value has a shape.

    A shape is a type (`float` stands for whole numbers, too), `[shape]` for a list, `{key: shape}` for an object that
    has at least these keys, None for anything, `type(None)` for null, a tuple of alternatives without members, or a
    function that returns what it expected, None if it got that.
    """
    expected = _mismatch(value, shape)
    if expected is not None:
        name = f"{field}: " if field else ""
        raise UsageError(f"{where} is damaged: {name}expected {expected}, got {brief(value)}")
    if isinstance(shape, list):
        for number, item in enumerate(value):
            check(item, shape[0], where, f"{field}[{number}]")
    elif isinstance(shape, dict):
        for key, inner in shape.items():
            if key not in value:
                raise UsageError(f"{where} is damaged: {f'{field}.' if field else ''}{key} is missing")
            check(value[key], inner, where, f"{field}.{key}" if field else key)


def _mismatch(value: Any, shape: Any) -> str | None:
    """What was expected of `value`, members aside; None if it is that."""
    if isinstance(shape, tuple):
        found = [_mismatch(value, part) for part in shape]
        return None if None in found else " or ".join(str(part) for part in found)
    if shape is None:
        return None
    kind = type(shape) if isinstance(shape, list | dict) else shape
    if not isinstance(kind, type):
        return kind(value)
    wide = (float, int) if kind is float else kind
    fits = isinstance(value, wide) and (kind is bool or not isinstance(value, bool))
    return None if fits else NAMES.get(kind, f"a {kind.__name__}")


def brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."

"""Methods that others write: found by the place of their constructor, `package.module:function` or
`path/to/file.py:function`, or by the name of an entry point of the group `sparsekern.methods`.
"""

import sys
import traceback
from collections.abc import Callable
from functools import cache, reduce, wraps
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from inspect import Parameter, Signature, signature
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints
from zlib import crc32

from ...errors import UsageError, first_line
from ..method import Method

GROUP = "sparsekern.methods"
RUN = ("sparsity", "total_steps", "steps_per_epoch")  # what every constructor is given


@cache
def installed() -> dict[str, EntryPoint]:
    """Returns the entry points of installed packages, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


@cache
def find(name: str) -> Callable[..., Method]:
    """Returns the constructor with the name of an entry point, or at `module:function` or `file.py:function`.

    Raises:
        UsageError: there is none, or importing it fails.
    """
    point = installed().get(name)
    source, attribute = (point.module, point.attr) if point else name.rsplit(":", 1)
    module = _file(Path(source)) if source.endswith(".py") else _module(source)
    try:
        function = reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        raise UsageError(f"method {name!r}: {source} has no {attribute!r}") from error
    if not callable(function):
        raise UsageError(
            f"method {name!r}: expected a function that is called with {', '.join(f'{key}=' for key in RUN)} and "
            f"returns a sparsekern.Method, got a {type(function).__name__}"
        )
    return function if hasattr(function, "entry") else constructor(name, function)


def constructor(name: str, function: Callable[..., Any]) -> Callable[..., Method]:
    """Returns a function with the signature of `sk.methods.NAME` that calls `function`, of the three arguments that
    describe the run with those that it takes. One that takes no `sparsity` finds its own."""
    known = signature(function).parameters
    whole = any(p.kind is Parameter.VAR_KEYWORD for p in known.values())
    named = {key: p for key, p in known.items() if p.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)}
    taken = RUN if whole else [key for key in RUN if key in named]
    default = Parameter.empty if whole else None  # of a sparsity that is not named

    @wraps(function)
    def make(
        sparsity: float | None = None,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        **options: Any,
    ) -> Method:
        run: dict[str, Any] = dict(zip(RUN, (sparsity, total_steps, steps_per_epoch), strict=True))
        made = function(**{key: run[key] for key in taken}, **options)
        if not isinstance(made, Method):
            raise UsageError(f"method {name!r}: expected that it returns a sparsekern.Method, got {made!r}")
        return made

    either = Parameter.POSITIONAL_OR_KEYWORD
    first = Parameter("sparsity", either, default=named["sparsity"].default if "sparsity" in named else default)
    others = [Parameter(key, either, default=None) for key in RUN[1:]]
    options = [p.replace(kind=Parameter.KEYWORD_ONLY) for key, p in named.items() if key not in RUN]
    facade: Any = make
    facade.__signature__ = Signature([first, *others, *options], return_annotation=Method)
    try:
        facade.__annotations__ = get_type_hints(function)
    except (NameError, AttributeError, TypeError):  # names that only a type checker imports
        facade.__annotations__ = {}
    return facade


def _module(name: str) -> ModuleType:
    """Imports a module, also one of the current directory, which comes last so that it takes no other's place."""
    _append(Path.cwd())
    return _imported(name, lambda: import_module(name))


def _file(path: Path) -> ModuleType:
    """Imports a file, which may import others beside it."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    name = f"{path.stem}_{crc32(str(path).encode()):08x}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file")
    module, execute = module_from_spec(spec), spec.loader.exec_module
    _append(path.parent)
    sys.modules[name] = module
    try:
        _imported(str(path), lambda: execute(module))
    except UsageError:
        del sys.modules[name]
        raise
    return module


def _append(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _imported(what: str, load: Callable[[], Any]) -> Any:
    """Calls `load`; what its code raises is one line that says where."""
    try:
        return load()
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, ImportError | SyntaxError) else f"{frame.filename}, line {frame.lineno}: "
        raise UsageError(f"cannot import {what}: {where}{type(error).__name__}: {first_line(error)}") from error

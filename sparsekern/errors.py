"""Errors that the command line prints as one message, without a traceback."""

import difflib
import importlib
from types import ModuleType


class UsageError(ValueError):
    """The user's mistake. The command line ends with exit status 2."""


class RunError(RuntimeError):
    """A run cannot go on although it was asked for correctly: it diverged, say. Exit status 1."""


def choose(kind: str, name: str, known: list[str]) -> str:
    """Returns `name` if it is one of `known`; otherwise raises a `UsageError` that names the nearest ones."""
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known) or 'none'}"
    raise UsageError(f"unknown {kind} {name!r}; {hint}")


def require(name: str, extra: str = "cli") -> ModuleType:
    """Imports an optional package; raises a `UsageError` that tells by which extra of ours it is installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = {"sklearn": "scikit-learn", "yaml": "pyyaml"}.get(name.partition(".")[0], name.partition(".")[0])
        raise UsageError(f"this needs {package}; install it with: pip install 'sparsekern[{extra}]'") from error


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type if it has none; of the system's what it says."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

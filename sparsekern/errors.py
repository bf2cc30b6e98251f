"""What the command line reports without a traceback."""

import difflib
import importlib
from types import ModuleType


class UsageError(Exception):
    """The user's mistake: printed as one message, exit status 2."""


class RunError(Exception):
    """A run that cannot go on, through nobody's spelling (it diverged, say): exit status 1."""


def choose(kind: str, name: str, known: list[str]) -> str:
    """`name` if it is one of `known`, otherwise a `UsageError` that names the nearest ones."""
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known) or 'none'}"
    raise UsageError(f"unknown {kind} {name!r}; {hint}")


def require(name: str) -> ModuleType:
    """Imports an optional package."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = {"sklearn": "scikit-learn"}.get(name.partition(".")[0], name.partition(".")[0])
        raise UsageError(f"this needs {package}; install it with: pip install 'sparsekern[cli]'") from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

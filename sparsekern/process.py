"""Processes of the command line: how they start others of this package, and how Ctrl-C ends them."""

import os
import signal
import sys
from collections.abc import Callable

PACKAGE = os.path.dirname(os.path.abspath(__file__))
# The current directory is no place to import from: a file random.py in it would take the place of the library's. And
# the package is this one, whatever else is installed.
START = """\
import sys
if not sys.path[0]:
    del sys.path[0]
import importlib.util, runpy
folder = sys.argv[1]
sys.argv[:3] = [sys.argv[2]]
where = {"submodule_search_locations": [folder]}
spec = importlib.util.spec_from_file_location("sparsekern", folder + "/__init__.py", **where)
sys.modules["sparsekern"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)"""


def world_size() -> int:
    """Returns how many processes torchrun, or a launcher like it, has started together with this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def rank() -> int:
    """Returns which of them this process is."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def rank_of_machine() -> int:
    """Returns which of those on this machine this process is."""
    return int(os.environ.get("LOCAL_RANK", rank()))


STOPPED = 130  # exit status after Ctrl-C
interrupted = False


def command(module: str, *arguments: str) -> list[str]:
    """The command line `python -m module arguments` for a module of this package, from any directory."""
    return [sys.executable, "-c", START, PACKAGE, module, *arguments]


def _quit(*_: object) -> None:
    os._exit(STOPPED)  # nothing has begun, or all is done; an exception would surface wherever an import stands


def _interrupt(*_: object) -> None:
    global interrupted
    interrupted = True
    raise KeyboardInterrupt


def _handle(before: Callable, now: Callable) -> None:
    if signal.getsignal(signal.SIGINT) is before:
        signal.signal(signal.SIGINT, now)


def is_command() -> bool:
    """Tells whether this process is `python -m sparsekern`, or the script `sparsekern`."""
    program, *_ = getattr(sys, "argv", None) or [""]
    if program == "-m":  # as long as Python looks for the module
        return "sparsekern" in sys.orig_argv
    return os.path.splitext(os.path.basename(program))[0] == "sparsekern"


def listen() -> None:
    """Makes a KeyboardInterrupt of Ctrl-C from here on."""
    global interrupted
    interrupted = False
    _handle(_quit, _interrupt)


def end() -> None:
    """Ends the process at once at Ctrl-C: all is done and written."""
    _handle(_interrupt, _quit)


if is_command():  # what is imported next takes seconds, in which Ctrl-C shall not make a traceback
    _handle(signal.default_int_handler, _quit)

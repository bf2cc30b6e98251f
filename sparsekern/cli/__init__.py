"""The command `sparsekern`."""

import argparse
import importlib
import io
import os
import sys
import warnings
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from typing import Any

from .. import process
from ..errors import RunError, UsageError
from . import commands


def _warn(message: Any, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Runs a command line, that of this process by default, and returns its exit status; a user's mistake is a message,
    never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack the letters of a path
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _status(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        status = _hush(1)
    except OSError as error:
        status = _hush(_fail(f"cannot write the output: {error.strerror}", 1))
    process.end()
    return status


def _status(argv: list[str] | None) -> int:
    try:
        arguments = _parsed(argv)
        command = importlib.import_module(f".{vars(arguments).pop('command')}", __package__)
        process.listen()
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return command.run(arguments)
    except SystemExit as stop:  # argparse: 0 for --help, 2 for wrong usage
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        return process.STOPPED
    except UsageError as error:
        return _fail(str(error), 2)
    except RunError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}", 2)
    except Exception:
        if process.interrupted:  # compiled modules make other errors of it
            return process.STOPPED
        raise


def _parsed(argv: list[str] | None) -> argparse.Namespace:
    """Returns the arguments. Where torchrun has started several processes, the first one alone tells a mistake."""
    with ExitStack() as stack:
        if process.rank() > 0:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        parser = commands.parser()
        arguments = parser.parse_args(argv)
        if process.world_size() > 1 and arguments.command != "train":
            parser.error(f"torchrun is for train alone: call sparsekern {arguments.command} without it")
        return arguments


def _fail(message: str, status: int) -> int:
    if process.interrupted:
        return process.STOPPED
    which = f"rank {process.rank()}: " if process.rank() > 0 else ""
    with suppress(OSError):
        print(f"sparsekern: {which}{message}", file=sys.stderr)
    return status


def _hush(status: int) -> int:
    """Nothing more is written, not even what the interpreter would flush as it ends."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status

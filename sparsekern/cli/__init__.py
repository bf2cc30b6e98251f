"""The command `sparsekern`."""

import argparse
import sys
import warnings
from typing import Any

from . import bench, compare, demo, info, methods, plot, train
from .errors import RunError, UsageError

DESCRIPTION = """\
Sparse training of neural networks: the zeros are neither stored nor multiplied.

exit status: 0 done, 1 a run failed, 2 wrong usage, 130 stopped by Ctrl-C (the last checkpoint is kept)
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "sparsekern", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (train, compare, methods, info, plot, bench, demo):
        module.register(commands)
    return parser


def _warn(message: Any, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Runs a command line and returns its exit status; a user's mistake is a message, never a traceback."""
    try:
        arguments = _parser().parse_args(argv)
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return arguments.run(arguments)
    except SystemExit as stop:  # argparse: 0 for --help, 2 for wrong usage
        return stop.code if isinstance(stop.code, int) else 2
    except UsageError as error:
        print(f"sparsekern: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"sparsekern: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        sys.stderr.close()
        return 1

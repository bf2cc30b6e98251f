"""`sparsekern bench`: what `sparsekern.bench` measures."""

from typing import Any

from ..bench.cli import add_arguments, run


def register(commands: Any) -> None:
    parser = commands.add_parser("bench", help="measure kernels and memory beside every peer that is installed")
    add_arguments(parser)
    parser.set_defaults(run=run)

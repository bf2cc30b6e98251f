"""`sparsekern bench`: the benchmarks of `sparsekern.bench`."""

import argparse
from typing import Any

from ..bench import cli


def register(commands: Any) -> None:
    parser = commands.add_parser("bench", help="measure kernels, memory and thresholds")
    cli.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    return cli.run(arguments)

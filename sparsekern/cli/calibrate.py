"""`sparsekern calibrate`: measures this machine, so that layers choose their kernels by what is fastest on it."""

import argparse
from typing import Any

import torch

from ..bench.calibrate import QUICK, calibrate
from ..errors import UsageError
from ..nn import crossovers, processor
from ..ops import extension
from ..training import files
from .bench import say_busy
from .options import processors
from .progress import Progress

DESCRIPTION = """\
Measures, in less than a minute, from which density on another kernel is faster on this machine. Layers
that compute with as many threads choose by it from then on; a run that has begun keeps its kernels.
Let nothing else run meanwhile.

The table lies in the user's cache directory, or in $SPARSEKERN_CACHE; `sparsekern info` says which one
is in use. Without one, layers go by the nearest processor that was measured for this package.
"""


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="measure this machine, by which layers choose their kernels",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=processors, metavar="N", help="threads (default: torch's)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if extension is None:
        raise UsageError("the kernels are not compiled: there is nothing to choose from")
    files.folder(crossovers.cache_folder())
    threads = arguments.threads or torch.get_num_threads()
    print(f"{processor.here()}, {threads} thread{'s' * (threads > 1)}", flush=True)
    say_busy()
    with Progress(QUICK.count, 0, "calibrate") as bar:

        def progress(row: str) -> None:
            bar.line(row)
            bar.step()

        path = calibrate(threads, effort=QUICK, progress=progress)
    print(path)
    return 0

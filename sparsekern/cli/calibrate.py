"""`sparsekern calibrate`: measures this machine, so that layers choose their kernels by what is fastest on it."""

import argparse
import sys

import torch

from ..bench.calibrate import QUICK, calibrate
from ..errors import UsageError
from ..nn import crossovers, processor
from ..ops import extension
from ..training import files
from .bench import say_busy
from .progress import Progress


def run(arguments: argparse.Namespace) -> int:
    if extension is None:
        raise UsageError("the kernels are not compiled: there is nothing to choose from")
    files.folder(crossovers.cache_folder())
    threads = arguments.threads or torch.get_num_threads()
    print(f"{processor.here()}, {threads} thread{'s' * (threads > 1)}", flush=True)
    say_busy()
    measured: list[str] = []
    with Progress(QUICK.count, 0, "calibrate") as bar:

        def progress(row: str) -> None:
            measured.append(row)
            bar.line(row)
            bar.step()

        path = calibrate(threads, effort=QUICK, progress=progress)
    if len(measured) < QUICK.count:
        print(
            f"the time was over after {len(measured)} of {QUICK.count} layers; the others go by the nearest of these "
            "or by another processor: calibrate again when the machine does nothing else",
            file=sys.stderr,
        )
    print(path)
    return 0

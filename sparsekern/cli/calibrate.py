"""`sparsekern calibrate`: measures this machine, so that layers choose their kernels by what is fastest on it."""

import argparse

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
    with Progress(QUICK.count, 0, "calibrate") as bar:

        def progress(row: str) -> None:
            bar.line(row)
            bar.step()

        path = calibrate(threads, effort=QUICK, progress=progress)
    print(path)
    return 0

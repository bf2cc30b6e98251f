"""`sparsekern bench`: measures kernels, training steps and memory beside every peer that is installed."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

import torch

from ..bench import largest, markdown, measure, memory, scaling, training_step
from ..bench.case import matching
from ..bench.report import write
from ..bench.suites import SUITES
from ..errors import RunError, UsageError
from ..training.files import folder

MODULES = {"train": training_step, "memory": memory, "scaling": scaling, "largest": largest}
OPTIONS = ("device", "words", "models", "runs", "compiled", "gib")  # of `run` of some of these


def run(arguments: argparse.Namespace) -> int:
    """Runs `sparsekern bench` and returns its exit status."""
    what = arguments.what
    if what == "report":
        return _report(arguments.folders, arguments.out)
    device = vars(arguments).get("device", "cpu")
    if device == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("--device cuda: there is no CUDA device")
        if arguments.threads and what in SUITES["cuda"]:
            raise UsageError(f"--threads does not go with {what} on --device cuda")
    if arguments.json is not None:
        if arguments.json.is_dir():
            raise UsageError(f"--json {arguments.json}: expected a file, got a folder")
        folder(arguments.json.parent)
    if what in SUITES["cpu"]:
        return measured(arguments, torch.device(device))
    say_busy()
    options = {name: value for name in OPTIONS if (value := vars(arguments).get(name))}
    options |= {"threads": arguments.threads or torch.get_num_threads(), "quick": arguments.quick}
    try:
        report = MODULES[what].run(progress=_say, save=partial(_save, arguments.json), **options)
    except RuntimeError as error:
        raise RunError(str(error)) from error
    _save(arguments.json, report)
    print(markdown.render(report), end="")
    return 0


def _report(folders: list[Path], out: Path) -> int:
    from ..bench import pictures

    for path in pictures.draw(folders, folder(out)):
        print(path)
    return 0


def measured(arguments: argparse.Namespace, device: torch.device, kind: str | None = None) -> int:
    """Measures kernels on a device and prints the table; `kind` is that of the suites, `device`'s by default."""
    kind = kind or device.type
    suite = SUITES[kind][arguments.what]
    impls = set(arguments.impls) if arguments.impls else None
    measure.chosen(suite, impls)
    every = suite.cases(arguments.quick)
    if not matching(every, arguments.words):
        raise UsageError(f"no case has all the words of --case {arguments.words!r}; one case is {every[0].label!r}")
    say_busy()
    common: dict = {"words": arguments.words, "impls": impls, "progress": _say, "save": partial(_save, arguments.json)}
    if kind == "cpu":
        report = measure.run(arguments.what, threads=arguments.threads, quick=arguments.quick, **common)
    else:
        report = measure.blank(arguments.what, device, arguments.quick)
        measure.add_gpu_rows(report, device, kinds=[arguments.what], **common)
    print(markdown.render(report), end="")
    return 0


def _save(path: Path | None, report: dict) -> None:
    if path is not None:
        write(path, report)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def say_busy() -> None:
    """Warns if other programs are using the processors."""
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1):
        _say(f"this machine is busy (load {os.getloadavg()[0]:.1f}): times will be noisy")

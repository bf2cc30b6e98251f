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
from ..training.files import folder

FILTERED = ("kernels", "convolutions", "crossovers", "moments", "scaling")  # by --case; all but the last by --impl
MODULES = {"train": training_step, "memory": memory, "scaling": scaling, "largest": largest}


def run(arguments: argparse.Namespace) -> int:
    """Runs `sparsekern bench` and returns its exit status."""
    if arguments.what == "report":
        return _report(arguments.folders, arguments.out)
    if arguments.folders or arguments.out is not None:
        return _usage("folders and --out go with report")
    gpu = arguments.device == "cuda"
    if gpu and arguments.what in ("crossovers", "scaling", "largest"):
        return _usage(f"{arguments.what} measures the CPU")
    if gpu and not torch.cuda.is_available():
        return _usage("there is no CUDA device")
    if gpu and arguments.threads and arguments.what in SUITES["cuda"]:
        return _usage("--threads goes with the CPU, and with train and memory")
    threads = arguments.threads or torch.get_num_threads()
    target = arguments.json
    if target is not None:
        if target.is_dir():
            return _usage(f"cannot write {target}: it is a folder")
        folder(target.parent)
    if (arguments.case or arguments.impl) and arguments.what not in FILTERED:
        return _usage(f"--case and --impl go with {', '.join(FILTERED)}")
    if arguments.impl and arguments.what == "scaling":
        return _usage("--impl does not go with scaling")
    if arguments.gib and arguments.what != "largest":
        return _usage("--gib goes with largest")
    if (arguments.model or arguments.runs or arguments.compiled) and arguments.what != "train":
        return _usage("--model, --run and --compiled go with train")
    if arguments.what in SUITES["cpu"]:
        return measured(arguments, torch.device(arguments.device))
    options: dict = {"runs": arguments.runs, "compiled": arguments.compiled} if arguments.what == "train" else {}
    if arguments.gib:
        options["gib"] = arguments.gib
    if arguments.case:
        options["words"] = arguments.case
    if gpu:
        options["device"] = "cuda"
    if arguments.model:
        options["models"] = arguments.model.split(",")
    say_busy()
    try:
        report = MODULES[arguments.what].run(threads=threads, quick=arguments.quick, progress=_say, **options)
    except RuntimeError as error:
        _say(f"sparsekern bench: {error}")
        return 1
    _save(arguments.json, report)
    print(markdown.render(report), end="")
    return 0


def _report(folders: list[Path], out: Path | None) -> int:
    from ..bench import pictures

    if not folders:
        return _usage("report needs folders with results, each of one machine")
    for path in pictures.draw(folders, folder(out or Path())):
        print(path)
    return 0


def measured(arguments: argparse.Namespace, device: torch.device, kind: str | None = None) -> int:
    """Measures kernels on a device and prints the table; `kind` is that of the suites, `device`'s by default."""
    kind = kind or device.type
    suite = SUITES[kind][arguments.what]
    impls = set(arguments.impl.split(",")) if arguments.impl else None
    words = arguments.case or ""
    try:
        measure.chosen(suite, impls)
    except RuntimeError as error:
        return _usage(str(error))
    every = suite.cases(arguments.quick)
    if not matching(every, words):
        return _usage(f"no case has all the words of {words!r}; one case is {every[0].label!r}")
    say_busy()
    common: dict = {"words": words, "impls": impls, "progress": _say, "save": partial(_save, arguments.json)}
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


def _usage(problem: str) -> int:
    _say(f"sparsekern bench: {problem}")
    return 2

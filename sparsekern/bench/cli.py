"""The flags of `sparsekern bench` and what they run."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

import torch

from . import (
    calibrate,
    cases,
    conv_cases,
    conv_peers,
    convolutions,
    kernels,
    memory,
    moments,
    peers,
    table,
    threshold,
    train,
)
from .gpu.measure import blank, measure
from .gpu.suite import SUITE, implementations
from .report import write

DESCRIPTION = """\
  kernels        forward, input gradient, weight gradient and whole step of linear layers, beside every peer installed
  convolutions   the same of convolutions
  moments        gradients with their second moment over samples, beside gradients alone and BackPACK
  train          whole training steps of networks: time, where it goes, peak memory
  memory         peak resident memory of training steps: dense, masked, sparse
  threshold      the k-th largest of 25 million magnitudes

With --device cuda the same on a GPU; train in bf16, too, threshold as the mask of 100 million weights.

Prints tables; --json keeps every row. Results are checked before they are timed, those of train in
fp32: a wrong one gets no number.

  sparsekern bench convolutions --case "step conv3x3/64-64 90%" --impl sparsekern-csr,sparseprop
"""
KERNELS = {
    "kernels": (kernels, cases, peers),
    "convolutions": (convolutions, conv_cases, conv_peers),
    "moments": (moments, moments, moments),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `sparsekern bench` to its parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.add_argument("what", choices=[*KERNELS, "train", "memory", "threshold"])
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="what to measure (default cpu)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument("--threads", type=_positive, metavar="N", help="threads (default: torch's)")
    parser.add_argument("--quick", action="store_true", help="a few seconds: small sizes, few cases")
    parser.add_argument(
        "--case", metavar="WORDS", help="kernels, convolutions, moments: only cases that have every word, 90%% say"
    )
    parser.add_argument("--impl", metavar="NAME,NAME", help="kernels, convolutions, moments: only these, and dense")
    parser.add_argument("--model", metavar="NAME,NAME", help=f"train: networks (default {','.join(train.MODELS)})")
    parser.add_argument(
        "--run",
        dest="runs",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="train: also the pattern that this run of `sparsekern train` ended with, repeatable",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="kernels: measure instead from which density on another kernel of ours is faster, into --json FILE",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs `sparsekern bench` and returns its exit status."""
    gpu = arguments.device == "cuda"
    if gpu and not torch.cuda.is_available():
        return _usage("there is no CUDA device")
    if gpu and arguments.calibrate:
        return _usage("--calibrate measures the CPU")
    if gpu and arguments.threads and arguments.what in SUITE:
        return _usage("--threads goes with the CPU, and with train and memory")
    threads = arguments.threads or torch.get_num_threads()
    if arguments.calibrate and arguments.what != "kernels":
        return _usage("--calibrate goes with kernels")
    target = arguments.json
    if arguments.calibrate and target is None:
        return _usage("--calibrate needs --json FILE")
    if target is not None and (problem := _unwritable(target)):
        return _usage(problem)
    if arguments.calibrate and target is not None:
        sizes: dict = {}
        if arguments.quick:
            sizes = {"shapes": [(64, 64, 16)], "densities": [0.05, 0.5], "budget": 0.05}
            sizes |= {"convolutions": [(16, 16, 3, 1, 8, 8)], "conv_densities": [0.05, 0.5]}
        _say_busy()
        calibrate.run(threads=threads, progress=_say, save=partial(write, target), **sizes)
        print(target)
        return 0
    if (arguments.case or arguments.impl) and arguments.what not in KERNELS:
        return _usage(f"--case and --impl go with {', '.join(KERNELS)}")
    if (arguments.model or arguments.runs) and arguments.what != "train":
        return _usage("--model and --run go with train")
    if gpu and arguments.what in SUITE:
        return measured(arguments, torch.device("cuda"))
    if arguments.what in KERNELS:
        report = _kernels(arguments, threads)
        if isinstance(report, str):
            return _usage(report)
    else:
        module = {"train": train, "memory": memory, "threshold": threshold}[arguments.what]
        options: dict = {"runs": arguments.runs} if arguments.what == "train" else {}
        if gpu:
            options["device"] = "cuda"
        if arguments.model:
            options["models"] = arguments.model.split(",")
        _say_busy()
        try:
            report = module.run(threads=threads, quick=arguments.quick, progress=_say, **options)
        except RuntimeError as error:
            _say(f"sparsekern bench: {error}")
            return 1
        _save(target, report)
    print(table.markdown(report), end="")
    return 0


def measured(arguments: argparse.Namespace, device: torch.device) -> int:
    """Measures the kernels of `device` and prints the table."""
    impls = set(arguments.impl.split(",")) if arguments.impl else None
    if impls and (unknown := impls - {*(known := implementations(arguments.what))}):
        return _usage(f"unknown --impl {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    _say_busy()
    report = blank(arguments.what, device, arguments.quick)
    measure(
        report,
        device,
        kinds=[arguments.what],
        words=arguments.case or "",
        impls=impls,
        progress=_say,
        save=partial(_save, arguments.json),
    )
    if not report["rows"]:
        return _usage(f"no case has all the words of {arguments.case!r}")
    print(table.markdown(report), end="")
    return 0


def _kernels(arguments: argparse.Namespace, threads: int) -> dict | str:
    """The report of the cases and implementations that were asked for, or why there are none."""
    module, suites, offered = KERNELS[arguments.what]
    all_cases = suites.suite(arguments.quick)
    chosen = cases.matching(all_cases, arguments.case or "")
    if not chosen:
        example = cases.name(all_cases[0].ops[0], all_cases[0].layer)
        return f"no case has all the words of {arguments.case!r}; one case is {example!r}"
    names = [peer.name for peer in offered.PEERS]
    wanted = {names[0], *(arguments.impl.split(",") if arguments.impl else names)}
    if unknown := wanted - set(names):
        return f"unknown --impl {', '.join(sorted(unknown))}; known: {', '.join(names)}"
    selected = [peer for peer in offered.PEERS if peer.name in wanted]
    save = partial(_save, arguments.json)
    _say_busy()
    return module.run(chosen, peers=selected, threads=threads, progress=_say, save=save)


def _save(path: Path | None, report: dict) -> None:
    if path is not None:
        write(path, report)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _say_busy() -> None:
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1):
        _say(f"this machine is busy (load {os.getloadavg()[0]:.1f}): times will be noisy")


def _usage(problem: str) -> int:
    _say(f"sparsekern bench: {problem}")
    return 2


def _unwritable(path: Path) -> str | None:
    if path.is_dir():
        return f"cannot write {path}: it is a folder"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"cannot write {path}: {error.strerror or error}"
    return None


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() and len(text) < 5 else 0
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 1024, got {text!r}")
    return value

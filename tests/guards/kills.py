"""Runs of the command line that are killed at random moments and resumed, against runs that nobody disturbs.

The processes are forks of one that has imported everything, so that most kills fall into the work and not into imports.
"""

import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
import torchvision  # noqa: F401
from safetensors.torch import load_file
from support.runs import SMALL, load, same

from sparsekern.cli import main

FLAGS = [*SMALL, "--epochs", "4", "--batch-size", "256"]
RUNS: dict[str, list[str]] = {
    "rigl": ["--sparsity", "0.8", "--set", "every=3"],
    "set": ["--sparsity", "0.9", "--set", "every=2", "--backend", "masked", "--schedule", "cosine"],
    "gse_grabo": ["--sparsity", "0.8", "--set", "every=3", "--nesterov"],
    "gmp": ["--sparsity", "0.9", "--optimizer", "adam"],
    "dpf": ["--sparsity", "0.8", "--set", "every=3"],
    "optg": ["--sparsity", "0.8"],
    "rewind": ["--sparsity", "0.7"],
    "magnitude_after": ["--sparsity", "0.8", "--optimizer", "adamw"],
    "snr": ["--set", "burn_in=1"],
    "snr_frozen": ["--set", "burn_in=1"],
}
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
# Times, and what depends on them.
TIMES = {"seconds_per_step", "cpu_seconds_per_step", "train_seconds", "peak_memory_bytes", "files"}


def check(seed: int) -> None:
    r = random.Random(seed)
    method = r.choice(list(RUNS))
    with tempfile.TemporaryDirectory() as scratch:
        whole, parts, said = Path(scratch, "whole"), Path(scratch, "parts"), Path(scratch, "said")
        begin = ["train", "--method", method, *FLAGS, *RUNS[method], "--out"]
        start = time.monotonic()
        _ended(_started([*begin, str(whole)], said), said)
        length, told = time.monotonic() - start, []
        for _ in range(r.choice([1, 2, 3])):
            sent = r.choice(SIGNALS)
            pid, moment = _started(_next(begin, parts), said), r.uniform(0, length)
            time.sleep(moment)
            os.kill(pid, sent)
            os.waitpid(pid, 0)
            told.append(f"{sent.name} after {moment:.3f} s")
        try:
            _ended(_started(_next(begin, parts), said), said)
            _compare(whole, parts)
        except Exception as error:
            raise AssertionError(f"{method}, {', '.join(told)}: {type(error).__name__}: {error}") from error


def _next(begin: list[str], folder: Path) -> list[str]:
    """What a user would call: a run without a checkpoint begins anew."""
    return ["train", "--resume", str(folder)] if (folder / "checkpoint.pt").exists() else [*begin, str(folder)]


def _started(argv: list[str], said: Path) -> int:
    """Starts a run whose errors go to the file `said`; returns the process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told its jobs to ignore it
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            code = main(argv)
        finally:
            os._exit(code)
    return child


def _ended(child: int, said: Path) -> None:
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the run ended with {os.waitstatus_to_exitcode(status)}: {said.read_text()[-2000:]}"


def _compare(whole: Path, parts: Path) -> None:
    left = {p.name for p in parts.iterdir()} ^ {p.name for p in whole.iterdir()}
    assert not left, f"files that only one folder has: {left}"
    same(load(whole), load(parts))
    for name in ("config.json", "metrics.jsonl", "summary.json"):
        same(_read(whole / name), _read(parts / name), name)
    ours, theirs = load_file(whole / "model.safetensors"), load_file(parts / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours), "model.safetensors differs"


def _read(path: Path) -> list[Any]:
    text = path.read_text()
    found = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]
    return [{key: value for key, value in entry.items() if key not in TIMES} for entry in found]

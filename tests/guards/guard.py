"""Runs generated cases in a process of their own, so that one that crashes is named, too."""

import importlib
import itertools
import mmap
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

NAMES = ("layers", "indices", "training", "interrupts", "zoo", "kills")


class Count(NamedTuple):
    """Of the cases that ran, and whether the last one failed."""

    cases: int
    failed: bool


def check_of(name: str) -> Callable[[int], None]:
    """What runs the case of a seed, and raises if it finds a fault."""
    return importlib.import_module(f"guards.{name}").check


def reproduction(name: str, seed: int) -> str:
    return f"PYTHONPATH=tests python -m guards {name} --seed {seed} --cases 1"


def run(name: str, first: int, cases: int | None, until: float | None) -> Count:
    """The cases of the seeds from `first` on, `cases` of them or as many as begin before the clock says `until`, until
    one fails."""
    check, progress = check_of(name), mmap.mmap(-1, 16)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _run(check, name, first, cases, until, progress)
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    done = int.from_bytes(progress[:8], "little")
    if os.WIFSIGNALED(status):
        print(f"the process died of signal {os.WTERMSIG(status)}\n{reproduction(name, first + done)}", flush=True)
    return Count(done, status != 0)


def _run(
    check: Callable[[int], None], name: str, first: int, cases: int | None, until: float | None, progress: mmap.mmap
) -> int:
    for done in itertools.count():
        progress[:8] = done.to_bytes(8, "little")
        if done == cases or (until is not None and time.monotonic() >= until and done > 0):
            return 0
        try:
            check(first + done)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            print(reproduction(name, first + done), flush=True)
            return 1
    return 0

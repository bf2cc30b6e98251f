"""`sparsekern bench largest`: the widest network that trains in a given memory, dense and sparse, measured.

A network is three square linear layers as in `scaling`. Each trial trains it for two steps in a process of its own,
whose peak of resident memory counts, above what it held after the imports and a first small step: weights, indices,
gradients, momentum, activations, and what is needed to make them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..process import command
from .peak_memory import RETURNING, held, peak, reset_peak
from .report import header
from .scaling import Size, Step
from .timing import seconds

GIB = 2**30
NONZEROS, DENSITY, BATCH, DEPTH, STEPS = 2**22, 100, 128, 3, 2
GRAIN = 64  # widths are multiples of it
AIM, ENOUGH, TRIALS = 0.98, 0.95, 8  # of the memory; of the memory; trials


class Kind(NamedTuple):
    """A family of networks of all widths; memory grows with the power `power` of the width, where it is large."""

    name: str
    impl: str
    nonzeros: Callable[[int], int]
    power: int
    guess: float  # bytes, by width to that power


KINDS = (
    Kind("dense", "dense", lambda width: width**2, 2, DEPTH * 12.0),
    Kind("99 % sparse", "sparsekern", lambda width: width**2 // DENSITY, 2, DEPTH * 28.0 / DENSITY),
    Kind("2^22 nonzeros a layer", "sparsekern", lambda width: min(NONZEROS, width**2), 1, 12 * 4.0 * BATCH),
)

Peak = Callable[[int], int | None]  # of a width


def run(
    *,
    threads: int | None = None,
    quick: bool = False,
    gib: Sequence[float] = (1, 4),
    progress: Callable[[str], Any] = lambda text: None,
    save: Callable[[dict], Any] = lambda report: None,
) -> dict:
    """Returns a report with a row for each memory and kind of network: its `width`, `nonzeros` of a layer, `bytes` of
    the peak and `ms` of a step, indicative only.

    Args:
        gib: memories, in GiB. As much must be free.

    Raises:
        RuntimeError: so much is not free, or nothing trains in it.
    """
    threads = torch.get_num_threads() if threads is None else threads
    report = header("largest", threads) | {"rows": []}
    for kind in KINDS:
        for memory in (1.0,) if quick else sorted(gib):
            _refuse_too_much(memory)
            trials: dict[int, dict] = {}

            def measured(width: int, kind: Kind = kind, memory: float = memory, trials: dict = trials) -> int | None:
                trials[width] = trial(kind, width, threads, round(memory * GIB))
                used = trials[width].get("bytes")
                progress(f"{kind.name}, {memory:g} GiB, width {width:,}: {trials[width]}")
                return used

            width = search(measured, round(memory * GIB), kind)
            report["rows"].append(
                {
                    "case": f"{DEPTH} layers in {memory:g} GiB",
                    "impl": kind.impl,
                    "kind": kind.name,
                    "device": "cpu",
                    "dtype": "float32",
                    "sparsity": round(1 - kind.nonzeros(width) / width**2, 8),
                    "batch": BATCH,
                    "gib": memory,
                    "width": width,
                    "nonzeros": kind.nonzeros(width),
                    "ratio_to_dense": None,
                    **trials[width],
                    "trials": len(trials),
                    "threads": threads,
                }
            )
            save(report)
    return report


def search(bytes_of: Peak, memory: int, kind: Kind) -> int:
    """Returns the largest width found that trains in `memory` bytes: one that takes `ENOUGH` of them, unless `TRIALS`
    widths were tried before.

    Args:
        bytes_of: returns the bytes that a width takes, None if it does not run in any memory near this.

    Raises:
        RuntimeError: none of the widths that were tried trains.
    """
    small = GRAIN
    base = bytes_of(small)
    if base is None or base > memory:
        raise RuntimeError(f"nothing trains in {memory / GIB:g} GiB: {small} units take {base} bytes")
    fits, too_wide, last = small, None, (small**kind.power, base)
    width = max(2 * small, _rounded((0.5 * memory / kind.guess) ** (1 / kind.power)))  # the guess is only that
    for _ in range(TRIALS):
        used = bytes_of(width)
        if used is None or used > memory:
            too_wide = width if too_wide is None else min(width, too_wide)
        else:
            fits = max(width, fits)
            if used >= ENOUGH * memory:
                break
        if used is None:
            width = _rounded((width + fits) / 2)
        else:  # along the line through the last two points
            x, before = width**kind.power, last
            last = x, used
            slope = max(1e-9, (used - before[1]) / (x - before[0]))
            width = _rounded(max(0.0, x + (AIM * memory - used) / slope) ** (1 / kind.power))
        if too_wide is not None and width >= too_wide:
            width = _rounded((fits + too_wide) / 2)
        if width <= fits:
            break
    return fits


def _rounded(width: float) -> int:
    return max(GRAIN, int(width) // GRAIN * GRAIN)


def trial(kind: Kind, width: int, threads: int, memory: int) -> dict[str, Any]:
    """Returns `bytes` and `ms` of training in a process of its own, or why that failed as `missing`.

    A process that takes far more than `memory` is refused it by the system.
    """
    arguments = (str(KINDS.index(kind)), str(width), str(threads), str(memory + memory // 4 + 2 * GIB))
    call, environment = command("sparsekern.bench.largest", *arguments), {**RETURNING, **os.environ}
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"missing": f"failed: {lines[-1] if lines else f'exit status {done.returncode}'}"}
    return json.loads(done.stdout)


def _train(kind: Kind, width: int, threads: int, limit: int) -> dict[str, Any]:
    """Trains in this process, of which the system gives `limit` bytes at most, and returns its peak."""
    _limit(limit)
    torch.set_num_threads(threads)
    Step(Size(GRAIN, kind.nonzeros(GRAIN), threads=threads), kind.impl)()  # torch imports and loads more at the first
    gc.collect()
    base = held("cpu")
    reset_peak("cpu")
    step = Step(Size(width, kind.nonzeros(width), BATCH, DEPTH, threads), kind.impl)
    times = [seconds(step) for _ in range(STEPS)]
    return {"ms": round(times[-1] * 1e3, 3), "bytes": peak("cpu") - base}


def _limit(size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    size = size if most == resource.RLIM_INFINITY else min(size, most)
    resource.setrlimit(resource.RLIMIT_DATA, (size, most))


def _refuse_too_much(gib: float) -> None:
    """Raises a RuntimeError if less is free than a memory of `gib` takes; without /proc nothing is known of it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    if free < 1.05 * gib * GIB:
        raise RuntimeError(f"{gib:g} GiB are to be filled, but only {free / GIB:.1f} GiB are free; see --gib")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("kind", "width", "threads", "limit"):
        parser.add_argument(name, type=int)
    arguments = parser.parse_args()
    print(json.dumps(_train(KINDS[arguments.kind], arguments.width, arguments.threads, arguments.limit)))

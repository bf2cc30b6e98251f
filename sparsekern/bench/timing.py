"""Interleaved timing: every implementation meets the same machine. On a GPU see `gpu_timing`."""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

ROUNDS = 15
SLOW = 0.2  # seconds: an implementation this slow is called at least 3 times instead of 5
HOT = 0.01  # seconds: below it a visit is one untimed and two timed calls
NOISY = 1.5  # third quartile over first quartile


@dataclass(frozen=True)
class Timing:
    """The samples of one implementation, in milliseconds; on a GPU, whether they are those of a CUDA graph."""

    samples: tuple[float, ...]
    graph: bool | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    @property
    def noisy(self) -> bool:
        low, high = self.quartiles
        return high > NOISY * low

    def columns(self, base: float | None) -> dict[str, Any]:
        """Returns the columns of a row; `base` is the median that the ratio is to."""
        low, high = self.quartiles
        return {
            "ms": round(self.median, 5),
            "ratio_to_dense": None if base is None else round(self.median / base, 4),
            "min_ms": round(min(self.samples), 5),
            "q1_ms": round(low, 5),
            "q3_ms": round(high, 5),
            "n": len(self.samples),
            **({} if self.graph is None else {"graph": self.graph}),
        }


class Timer(Protocol):
    """Times calls, each in turn with the others."""

    def __call__(self, calls: dict[str, Callable[[], Any]], macs: int = 0) -> dict[str, Timing]:
        """Returns the timing of every call; `macs` are the multiply-adds of one of them."""
        ...


@dataclass(frozen=True)
class CpuTimer:
    """Times calls for about `budget` seconds, more where a dense product takes longer; see `interleave`."""

    budget: float

    def __call__(self, calls: dict[str, Callable[[], Any]], macs: int = 0) -> dict[str, Timing]:
        return interleave(calls, budget=self.budget * max(1.0, min(2.5, macs / 5e8)), watch=_matters)


def _matters(name: str) -> bool:
    return name == "dense" or name.startswith("sparsekern")


def synchronize(device: torch.device | str) -> None:
    """Waits for a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Computes with `threads` threads, kept on as many processors where the system allows it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    narrow = set(sorted(allowed)[:threads])
    try:
        _bind(narrow)
        yield
    finally:
        _bind(allowed)
        torch.set_num_threads(before)


@contextmanager
def strict() -> Iterator[None]:
    """fp32 is fp32 for everyone: by default PyTorch lets convolutions round it to TF32, and products not."""
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


def _bind(processors: set[int]) -> None:
    if processors:
        for task in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(task.name), processors)


def interleave(
    calls: dict[str, Callable[[], Any]], *, budget: float, watch: Callable[[str], bool] = lambda name: True
) -> dict[str, Timing]:
    """Times the calls in rounds, each round visiting them one after another.

    A visit is a single call, or, where the first of the calls takes less than 10 ms, an untimed one and two timed
    ones, for all alike. The number of rounds follows `budget`, in seconds; a slow implementation sits some of them
    out, evenly spread. If a watched implementation came out noisy (another process, say), as many fresh rounds
    follow, unless the first ones took over three times the budget, and all samples count.
    """
    estimates = {name: _estimate(call) for name, call in calls.items()}
    hot = next(iter(estimates.values())) < HOT
    visits = _visits(estimates, budget / (3 if hot else 1))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    start = time.perf_counter()
    try:
        for _ in range(2):
            _rounds(calls, visits, hot, samples)
            timings = {name: Timing(tuple(times)) for name, times in samples.items()}
            noisy = any(timing.noisy for name, timing in timings.items() if watch(name))
            if not noisy or time.perf_counter() - start > 3 * budget:
                break
    finally:
        if collecting:
            gc.enable()
    return timings


def seconds(call: Callable[[], Any]) -> float:
    """Returns the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _estimate(call: Callable[[], Any]) -> float:
    """Seconds of a call, from the second one on."""
    first = seconds(call)
    return first if first > SLOW else min(seconds(call) for _ in range(2))


def _visits(estimates: dict[str, float], seconds: float) -> dict[str, int]:
    """Returns how many rounds each implementation takes part in: what fits its share of the time, `ROUNDS` at most."""
    share = seconds / len(estimates)
    return {
        name: max(3 if estimate > SLOW else 5, min(ROUNDS, int(share / estimate)))
        for name, estimate in estimates.items()
    }


def _rounds(
    calls: dict[str, Callable[[], Any]], visits: dict[str, int], hot: bool, samples: dict[str, list[float]]
) -> None:
    rounds = max(visits.values())
    for r in range(rounds):
        for name, call in calls.items():
            if (r + 1) * visits[name] // rounds == r * visits[name] // rounds:
                continue
            if hot:
                call()
            for _ in range(2 if hot else 1):
                samples[name].append(seconds(call) * 1e3)

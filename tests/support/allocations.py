"""Counts the bytes that tensors take in the course of steps, as PyTorch's allocator for the CPU reports them."""

from collections.abc import Callable
from typing import NamedTuple

from torch.profiler import ProfilerActivity, profile, record_function

MARK = "counted step"


class Bytes(NamedTuple):
    """Bytes in use before a step, at most in it, and after it, over those in use when counting began."""

    before: int
    peak: int
    after: int


def counted(run: Callable[[Callable[[], record_function]], None]) -> list[Bytes]:
    """Returns the bytes of every step of `run(step)`, each within `with step():`. Maps of files count as memory."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        run(lambda: record_function(MARK))
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    steps = sorted((e.start_ns(), e.start_ns() + e.duration_ns()) for e in events if e.name() == MARK)
    found = []
    for begin, end in steps:
        before = sum(size for time, size in changes if time < begin)
        now = peak = before
        for time, size in changes:
            if begin <= time <= end:
                now += size
                peak = max(peak, now)
        found.append(Bytes(before, peak, now))
    return found

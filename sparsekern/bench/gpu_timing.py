"""Timing on a GPU: in turns, with a cold cache, by events of the device. Calls that do not wait for it are replayed
from CUDA graphs, so that the host does not count."""

import time
from collections.abc import Callable
from typing import Any

import torch

from .timing import Timing

ROUNDS = 20
FLUSHED = 256 << 20  # bytes: several times the last-level cache of any card


class GpuTimer:
    """Times calls on a GPU; on a CPU, for trying this out, by the clock."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.flushed = torch.empty(FLUSHED // 4 if self.cuda else 1, dtype=torch.int32, device=device)

    def __call__(self, calls: dict[str, Callable[[], Any]], macs: int = 0) -> dict[str, Timing]:
        runs = {name: self._prepared(call) for name, call in calls.items()}
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, (run, _) in runs.items():
                samples[name].append(self._once(run))
        return {name: Timing(tuple(samples[name]), runs[name][1]) for name in calls}

    def _prepared(self, call: Callable[[], Any]) -> tuple[Callable[[], Any], bool]:
        """Returns what is timed for a call, and whether that is a CUDA graph of it."""
        for _ in range(3):
            call()
        if not self.cuda or waits(call):
            return call, False
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        try:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                call()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                call()
        except RuntimeError:  # it cannot be captured
            torch.cuda.synchronize()
            return call, False
        return graph.replay, True

    def _once(self, run: Callable[[], Any]) -> float:
        """Returns the milliseconds of one run with a cold cache."""
        self.flushed.zero_()
        if not self.cuda:
            start = time.perf_counter()
            run()
            return (time.perf_counter() - start) * 1e3
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        run()
        after.record()
        after.synchronize()
        return before.elapsed_time(after)


def waits(call: Callable[[], Any]) -> bool:
    """Returns whether a call waits for the device, so that no CUDA graph can hold it: a capture that fails may spoil
    what follows."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return False

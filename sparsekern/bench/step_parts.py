"""Splits the time of a training step into its parts, by the profiler."""

import time
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

STEPS = 3
# A part, and what the name of an operator, or of one around it, contains; the outermost that fits counts.
PARTS = {
    "optimizer": ("optimizer.step", "optimizer.zero_grad"),
    "convolution": ("conv",),
    "batch norm": ("batch_norm", "batchnorm"),
    "ReLU": ("relu", "threshold"),
    "pooling": ("pool",),
    "linear": ("linear", "addmm"),
    "add": ("aten::add", "addbackward"),
    "mask": ("aten::mul", "mulbackward"),
}
REST, PYTHON = "other operators", "Python"


def parts(step: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds of a step by part; `PYTHON` is what passed outside of operators. The profiler slows small ones."""
    step()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as recorded:
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        total = (time.perf_counter() - start) * 1e3 / STEPS
    spent = dict.fromkeys([*PARTS, REST], 0.0)
    for event in recorded.events() or ():
        spent[_part(event)] += event.self_cpu_time_total / 1e3 / STEPS
    spent[PYTHON] = max(0.0, total - sum(spent.values()))
    return {part: round(ms, 3) for part, ms in spent.items()}


def _part(event: Any) -> str:
    found = REST
    while event is not None:
        name = event.name.lower()
        found = next((part for part, words in PARTS.items() if any(word in name for word in words)), found)
        event = event.cpu_parent
    return found

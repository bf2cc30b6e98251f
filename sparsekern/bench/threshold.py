"""`sparsekern bench threshold`: the k-th largest magnitude of a long vector."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .. import ops
from .report import header
from .timing import interleave, pinned

SIZE, SHARE = 25_000_000, 0.05
BUDGET = 6.0  # seconds of samples


def run(
    *,
    threads: int | None = None,
    quick: bool = False,
    progress: Callable[[str], Any] = lambda text: None,
) -> dict:
    """A row per implementation; k is 5 % of 25 million normal fp32 numbers."""
    threads = torch.get_num_threads() if threads is None else threads
    size = 100_000 if quick else SIZE
    report = header("threshold", threads)
    report["peers"] = {"torch": torch.__version__, "numpy": np.__version__}
    with pinned(threads):
        x = torch.randn(size, generator=torch.Generator().manual_seed(0))
        report["rows"] = measure(implementations(x, max(1, int(SHARE * size))), x, BUDGET / 20 if quick else BUDGET)
    for row in report["rows"]:
        row["threads"] = threads
        progress(f"{row['impl']}: {row['ms']} ms")
    return report


def implementations(x: torch.Tensor, k: int) -> dict[str, Callable[[], float]]:
    """The first is the one that the others are divided by."""
    array, smallest = x.numpy(), x.numel() - k
    return {
        "torch.kthvalue": lambda: float(x.abs().kthvalue(smallest + 1).values),
        "torch.topk": lambda: float(x.abs().topk(k, sorted=False).values.min()),
        "torch.sort": lambda: float(x.abs().sort(descending=True).values[k - 1]),
        "numpy.partition": lambda: float(np.partition(np.abs(array), smallest)[smallest]),
        "sparsekern": lambda: float(ops.kth_largest([x], k, True)),
    }


def measure(calls: dict[str, Callable[[], float]], x: torch.Tensor, budget: float) -> list[dict]:
    """A time for every call that finds what the first finds; `ratio_to_dense` is to the first."""
    found = {name: call() for name, call in calls.items()}
    exact = next(iter(found.values()))
    timings = interleave({name: call for name, call in calls.items() if found[name] == exact}, budget=budget)
    base = next(iter(timings.values())).median
    rows = []
    for name in calls:
        row = {
            "case": f"k-th largest magnitude of {x.numel():,} numbers, k = {SHARE:.0%}",
            "impl": name,
            "device": "cpu",
            "dtype": "float32",
            "sparsity": 1 - SHARE,
            "batch": None,
            "ms": None,
            "ratio_to_dense": None,
            "bytes": x.numel() * x.element_size(),
        }
        if name in timings:
            low, high = timings[name].quartiles
            row |= {"ms": round(timings[name].median, 4), "ratio_to_dense": round(timings[name].median / base, 5)}
            row |= {"min_ms": round(min(timings[name].samples), 4), "q1_ms": round(low, 4), "q3_ms": round(high, 4)}
            row["n"] = len(timings[name].samples)
        else:
            row["missing"] = f"wrong: found {found[name]}, exact is {exact}"
        rows.append(row)
    return rows

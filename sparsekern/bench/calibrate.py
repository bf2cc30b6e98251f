"""Measures from which density on another kernel is faster: makes `ops/crossovers.json`, by which layers choose."""

from collections.abc import Callable, Sequence
from math import log
from typing import Any

from .cases import Layer, Problem
from .peers import PEERS
from .report import header
from .timing import interleave, pinned

DENSITIES = (0.01, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.45, 0.6, 0.8)
SHAPES = (
    *((512, 512, batch) for batch in (32, 128)),
    *((1024, 1024, batch) for batch in (32, 128, 512)),
    (4096, 4096, 128),
)
KERNELS = {f"sparsekern-{kernel}": kernel for kernel in ("csr", "tiled", "expanded")}


def run(
    *,
    threads: int,
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
    densities: Sequence[float] = DENSITIES,
    budget: float = 0.6,
    progress: Callable[[str], Any] = lambda text: None,
) -> dict:
    """A row per shape (`rows cols batch`): the densities above which a whole step is faster tiled, and by dense
    products of the expanded weight. 1.0 is never."""
    report = header("crossovers", threads)
    del report["peers"]
    report["rows"] = []
    peers = [peer for peer in PEERS if peer.name in KERNELS]
    with pinned(threads):
        for rows, cols, batch in shapes:
            times: dict[str, list[float]] = {kernel: [] for kernel in KERNELS.values()}
            for density in densities:
                problem = Problem(Layer(cols, rows, batch, 1 - density))
                calls = {KERNELS[peer.name]: peer.build(problem, "step").call for peer in peers}
                for kernel, timing in interleave(calls, budget=budget).items():
                    times[kernel].append(timing.median)
            sparse = [min(pair) for pair in zip(times["csr"], times["tiled"], strict=True)]
            row = {
                "rows": rows,
                "cols": cols,
                "batch": batch,
                "tiled_above": crossing(densities, times["tiled"], times["csr"]),
                "dense_above": crossing(densities, times["expanded"], sparse),
            }
            report["rows"].append(row)
            progress(str(row))
    return report


def crossing(densities: Sequence[float], challenger: Sequence[float], incumbent: Sequence[float]) -> float:
    """The density from which on `challenger` takes less time throughout, interpolated in the logarithm of the ratio.

    Densities ascend. 0.0 if it always does, 1.0 if it does not at the highest density.
    """
    ratios = [log(a / b) for a, b in zip(challenger, incumbent, strict=True)]
    slower = [i for i, ratio in enumerate(ratios) if ratio >= 0]
    if not slower:
        return 0.0
    last = slower[-1]
    if last == len(ratios) - 1:
        return 1.0
    share = ratios[last] / (ratios[last] - ratios[last + 1])
    return round(densities[last] + share * (densities[last + 1] - densities[last]), 4)

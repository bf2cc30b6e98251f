"""Measures from which density on another kernel is faster: makes `nn/crossovers.json`, by which layers choose."""

from collections.abc import Callable, Iterable, Sequence
from math import log
from typing import Any

from . import convolution_peers, linear_peers
from .convolutions import Conv, ConvProblem
from .linear import Linear
from .peer import Peer
from .problem import Problem
from .report import header
from .timing import interleave, pinned

DENSITIES = (0.01, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.45, 0.6, 0.8)
SHAPES = (
    *((512, 512, batch) for batch in (32, 128)),
    *((1024, 1024, batch) for batch in (32, 128, 512)),
    (4096, 4096, 128),
)
KERNELS = {f"sparsekern-{kernel}": kernel for kernel in ("csr", "tiled", "expanded")}
CONV_DENSITIES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9)
# in, out, kernel, stride, size, batch. A layer that does not know its input yet goes by the first of its shape.
CONVOLUTIONS = (
    *((channels, channels, 3, 1, size, 64) for channels, size in ((16, 32), (32, 16), (64, 8))),
    *((channels, channels, 3, 1, size, 64) for channels, size in ((64, 32), (128, 16), (256, 8), (512, 4), (512, 2))),
    *((channels, channels, 3, 1, size, batch) for channels, size in ((64, 32), (256, 8)) for batch in (1, 8)),
    (256, 256, 3, 1, 14, 16),
    *((3, out, 3, 1, 32, 64) for out in (16, 64)),
    *((16 * n, 32 * n, 3, 2, 32 // n, 64) for n in (1, 2)),
    *((64 * n, 128 * n, 3, 2, 32 // n, 64) for n in (1, 4)),
    (64, 128, 1, 2, 32, 64),
    *((256, 64, 1, 1, 16, batch) for batch in (64, 1, 8)),
    (64, 256, 1, 1, 16, 64),
    (512, 512, 1, 1, 4, 64),
)


def run(
    *,
    threads: int,
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
    densities: Sequence[float] = DENSITIES,
    convolutions: Sequence[tuple[int, int, int, int, int, int]] = CONVOLUTIONS,
    conv_densities: Sequence[float] = CONV_DENSITIES,
    budget: float = 0.6,
    progress: Callable[[str], Any] = lambda text: None,
    save: Callable[[dict], Any] = lambda report: None,
) -> dict:
    """The densities above which a whole step is faster with other kernels; 1.0 is never.

    `rows` has one of every linear layer of `shapes` (rows, cols, batch): tiled, and dense products of the expanded
    weight. `convolutions` has one of every convolution (in, out, kernel, stride, height and width, batch): dense
    products of the expanded weight.
    """
    report = header("crossovers", threads)
    del report["peers"]
    report |= {"rows": [], "convolutions": []}

    def add(table: str, row: dict) -> None:
        report[table].append(row)
        progress(str(row))
        save(report)

    with pinned(threads):
        for rows, cols, batch in shapes:
            times = _times(
                (Problem(Linear(cols, rows, batch, 1 - density)) for density in densities), linear_peers.PEERS, budget
            )
            sparse = [min(pair) for pair in zip(times["csr"], times["tiled"], strict=True)]
            tiled_above = crossing(densities, times["tiled"], times["csr"])
            dense_above = crossing(densities, times["expanded"], sparse)
            row = {"rows": rows, "cols": cols, "batch": batch}
            add("rows", row | {"tiled_above": tiled_above, "dense_above": dense_above})
        for channels, out, kernel, stride, size, batch in convolutions:
            layers = [Conv(channels, out, size, batch, 1 - density, kernel, stride) for density in conv_densities]
            times = _times((ConvProblem(layer) for layer in layers), convolution_peers.PEERS, budget)
            row = {"out": out, "in": channels, "kernel": kernel, "stride": stride, "size": size, "batch": batch}
            add("convolutions", row | {"dense_above": crossing(conv_densities, times["expanded"], times["csr"])})
    return report


def _times(problems: Iterable[Problem], peers: Sequence[Peer], budget: float) -> dict[str, list[float]]:
    """The median of a step of each of our kernels on each problem."""
    ours = [peer for peer in peers if peer.name in KERNELS]
    times: dict[str, list[float]] = {KERNELS[peer.name]: [] for peer in ours}
    for problem in problems:
        calls = {KERNELS[peer.name]: peer.build(problem, "step").call for peer in ours}
        for kernel, timing in interleave(calls, budget=budget).items():
            times[kernel].append(timing.median)
    return times


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

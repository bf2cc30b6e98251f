"""Measures from which density on another kernel is faster: makes the tables by which layers choose."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from math import log
from pathlib import Path
from time import monotonic
from typing import Any

from ..nn import crossovers, processor
from ..nn.kernel_choice import shape_of
from . import convolution_peers, linear_peers
from .convolutions import Conv, ConvProblem
from .linear import Linear
from .peer import Peer
from .problem import Problem
from .report import header, write
from .timing import interleave, pinned

# From the kernel for the lowest densities to the one for the highest, each with the peer that is measured.
KERNELS = {
    "csr": "sparsekern-csr",
    "tiled": "sparsekern-tiled",
    "dense": "sparsekern-expanded",
}
PEERS = {"linear": linear_peers.PEERS, "convolutions": convolution_peers.PEERS}
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Effort:
    """The layers and densities to measure, and the time to take.

    Attributes:
        linear, convolutions: shapes of layers, as `crossovers.SHAPES` names them, each with a dtype. A layer that does
            not know its input yet goes by the first of its shape.
        densities, conv_densities: at which every layer is measured, ascending; below 1, where the values are the matrix
            and nothing is expanded.
        budget: seconds for the kernels of one layer at one density.
        seconds: after so many no other layer is begun, but for the first linear layer and the first convolution.
    """

    linear: Sequence[tuple[Shape, str]]
    convolutions: Sequence[tuple[Shape, str]]
    densities: Sequence[float]
    conv_densities: Sequence[float]
    budget: float
    seconds: float = float("inf")

    @property
    def count(self) -> int:
        """The number of layers."""
        return len(self.linear) + len(self.convolutions)

    def layers(self) -> Iterator[tuple[str, dict[str, Any], Sequence[float]]]:
        """Yields kind, shape and densities of every layer, linear ones and convolutions by turns."""
        for pair in zip_longest(self.linear, self.convolutions):
            for kind, layer, densities in zip(
                crossovers.SHAPES, pair, (self.densities, self.conv_densities), strict=True
            ):
                if layer is not None:
                    shape, dtype = layer
                    named = dict(zip(crossovers.SHAPES[kind], shape, strict=True))
                    yield kind, {**named, "dtype": dtype}, densities


def _fp32(*shapes: Shape) -> list[tuple[Shape, str]]:
    return [(shape, "float32") for shape in shapes]


def _bf16(*shapes: Shape) -> list[tuple[Shape, str]]:
    return [(shape, "bfloat16") for shape in shapes]


# For the tables that are committed.
THOROUGH = Effort(
    linear=_fp32(
        *((size, size, batch) for size in (1024, 512) for batch in (128, 1, 512, 32, 8)),
        *((4096, 4096, batch) for batch in (128, 8, 1)),
    )
    + _bf16(*((1024, 1024, batch) for batch in (128, 8, 512, 32, 1)), (4096, 4096, 128)),
    convolutions=_fp32(
        *((channels, channels, 3, 1, 512 // channels, 64) for channels in (16, 32, 64)),
        *((channels, channels, 3, 1, 2048 // channels, 64) for channels in (256, 128, 64, 512)),
        (512, 512, 3, 1, 2, 64),
        *((64, 64, 3, 1, 32, batch) for batch in (1, 8)),
        *((256, 256, 3, 1, 8, batch) for batch in (1, 8)),
        (256, 256, 3, 1, 14, 16),
        *((out, 3, 3, 1, 32, 64) for out in (16, 64)),
        *((32 * n, 16 * n, 3, 2, 32 // n, 64) for n in (1, 2)),
        *((128 * n, 64 * n, 3, 2, 32 // n, 64) for n in (1, 4)),
        (128, 64, 1, 2, 32, 64),
        *((64, 256, 1, 1, 16, batch) for batch in (64, 1, 8)),
        (256, 64, 1, 1, 16, 64),
        (512, 512, 1, 1, 4, 64),
    )
    + _bf16(
        *((channels, channels, 3, 1, 2048 // channels, 64) for channels in (256, 64, 512)),
        (16, 16, 3, 1, 32, 64),
        *((256, 256, 3, 1, 8, batch) for batch in (1, 8)),
        (64, 256, 1, 1, 16, 64),
    ),
    densities=(0.02, 0.05, 0.08, 0.12, 0.2, 0.3, 0.45, 0.6, 0.8, 0.97),
    conv_densities=(0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.97),
    budget=0.3,
)
# For a user's machine: less than a minute.
QUICK = Effort(
    linear=_fp32(*((1024, 1024, batch) for batch in (128, 1, 32, 512)), (2048, 2048, 128), (512, 512, 128))
    + _bf16(*((1024, 1024, batch) for batch in (128, 8)))
    + _fp32((1024, 1024, 8)),
    convolutions=_fp32(
        *((channels, channels, 3, 1, 2048 // channels, 32) for channels in (64, 256, 128, 512)),
        *((256, 256, 3, 1, 8, 1), (64, 64, 3, 1, 32, 1)),
    )
    + _bf16(*((channels, channels, 3, 1, 2048 // channels, 32) for channels in (64, 256)))
    + _fp32((64, 256, 1, 1, 16, 32), (128, 64, 3, 2, 32, 32)),
    densities=(0.03, 0.1, 0.25, 0.5, 0.97),
    conv_densities=(0.1, 0.4, 0.7, 0.97),
    budget=0.06,
    seconds=45.0,
)


def calibrate(threads: int, *, effort: Effort = QUICK, progress: Callable[[str], Any] = lambda text: None) -> Path:
    """Measures this machine with so many threads, in less than a minute, and writes the table by which layers choose
    from then on to the user's cache directory. Returns its path.

    An interruption leaves what was there before.

    Raises:
        RunError: the file cannot be written.
    """
    path = crossovers.cache_file(threads)
    write(path, run(threads=threads, effort=effort, progress=progress))
    crossovers.clear_cache()
    return path


def run(
    *,
    threads: int,
    effort: Effort = THOROUGH,
    report: dict | None = None,
    progress: Callable[[str], Any] = lambda text: None,
    save: Callable[[dict], Any] = lambda report: None,
) -> dict:
    """Returns the densities above which a whole step is faster with other kernels, a table of `nn/crossovers.py`.

    Args:
        report: a report that was interrupted; it goes on from there.
        progress: is told of every row.
        save: is given the report after every row.
    """
    if report is None:
        report = header("crossovers", threads) | {
            "processor": asdict(processor.here()),
            "linear": [],
            "convolutions": [],
        }
        del report["peers"]
    end = monotonic() + effort.seconds
    with pinned(threads):
        for kind, shape, densities in effort.layers():
            late = monotonic() > end and report[kind]
            if late or any(shape.items() <= row.items() for row in report[kind]):
                continue
            row = {**shape, "above": _above(kind, shape, densities, effort.budget)}
            report[kind].append(row)
            progress(_line(row))
            save(report)
    return report


def _line(row: dict[str, Any]) -> str:
    """Says what was found of a layer."""
    faster = [f"{kernel} above {density:.2f}" for kernel, density in row["above"].items() if 0 < density < 1]
    return f"{shape_of(row)}, {row['dtype']}: {', '.join(['csr', *faster])}"


def _above(kind: str, shape: dict[str, Any], densities: Sequence[float], budget: float) -> dict[str, float]:
    """Returns of each kernel the density above which it is faster than all before it."""
    times = _times([_problem(kind, shape, density) for density in densities], _ours(kind, shape["dtype"]), budget)
    above: dict[str, float] = {}
    fastest = [float("inf")] * len(densities)
    for kernel, own in times.items():
        above[kernel] = crossing(densities, own, fastest) if above else 0.0
        fastest = [min(pair) for pair in zip(own, fastest, strict=True)]
    return above


def _problem(kind: str, shape: dict[str, Any], density: float) -> Callable[[], Problem]:
    """Returns what makes the problem: only one is in memory at a time."""
    if kind == "linear":
        return lambda: Problem(Linear(shape["cols"], shape["rows"], shape["batch"], 1 - density, shape["dtype"]))
    sizes = (shape["in"], shape["out"], shape["size"], shape["batch"])
    return lambda: ConvProblem(Conv(*sizes, 1 - density, shape["kernel"], shape["stride"], shape["dtype"]))


def _ours(kind: str, dtype: str) -> dict[str, Peer]:
    """Returns the peers of our kernels that compute in a dtype."""
    peers = {peer.name: peer for peer in PEERS[kind] if peer.why_not(dtype) is None}
    return {kernel: peers[name] for kernel, name in KERNELS.items() if name in peers}


def _times(problems: Sequence[Callable[[], Problem]], peers: dict[str, Peer], budget: float) -> dict[str, list[float]]:
    """Returns the shortest time of a step of each kernel on each problem: other programs only lengthen it."""
    times: dict[str, list[float]] = {kernel: [] for kernel in peers}
    for problem in problems:
        made = problem()
        calls = {kernel: peer.build(made, "step").call for kernel, peer in peers.items()}
        for kernel, timing in interleave(calls, budget=budget).items():
            times[kernel].append(min(timing.samples))
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

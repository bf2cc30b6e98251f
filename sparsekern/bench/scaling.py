"""`sparsekern bench scaling`: how time and memory of a training step grow with each size of a network.

One size varies at a time. A network is square linear layers without activations between; a step is forward, backward
with a given gradient of the output, and SGD with momentum, the gradient of the input included, so that all layers do
the same.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..nn import SparseLinear
from ..topology import Topology
from .analysis import growth
from .memory_lines import count
from .problem import deviation
from .report import header
from .timing import interleave, pinned

BUDGET = 0.8  # seconds of samples for a network
DENSE_WEIGHTS = 2**26  # a dense layer has no more
TOLERANCE = 1e-5
SAMPLES, ENTRIES = 4, 1000  # of the batch, and of the weight gradient: what is compared before it is timed
COSTS = ("ms", "bytes")


@dataclass(frozen=True)
class Size:
    """Sizes of a network; `nonzeros` are those of a layer, its biases aside."""

    width: int = 1024
    nonzeros: int = 2**20 // 10
    batch: int = 128
    depth: int = 1
    threads: int = 1

    @property
    def sparsity(self) -> float:
        return 1 - self.nonzeros / self.width**2


@dataclass(frozen=True)
class Axis:
    """A size that varies while the others stay.

    Attributes:
        name: what the rows call it.
        field: of `Size`.
        sizes: ascending.
        slopes: exponents of `COSTS` that would be ideal, of the sparse network.
        dense: those of the dense one, if any.
    """

    name: str
    field: str
    sizes: tuple[Size, ...]
    slopes: tuple[float, float]
    dense: tuple[float, float] | None


def axes(threads: int) -> list[Axis]:
    """Returns what varies, on `threads` threads but where these vary."""

    start, powers = Size(threads=threads), [2**i for i in range(19)]

    def vary(field: str, values: Sequence[int], **others: int) -> tuple[str, tuple[Size, ...]]:
        return field, tuple(replace(start, **others, **{field: value}) for value in values)

    def tenth(width: int) -> Size:
        return replace(start, width=width, nonzeros=width**2 // 10)

    return [
        Axis("nonzeros", *vary("nonzeros", [2**i for i in range(12, 24)], width=4096), (1, 1), None),
        Axis("width, 2^20 nonzeros", *vary("width", powers[11:], nonzeros=2**20, batch=64), (0, 0), (2, 2)),
        Axis("width, 90 % sparse", "width", tuple(tenth(width) for width in powers[8:14]), (2, 2), (2, 2)),
        Axis("batch", *vary("batch", powers[:13]), (1, 1), (1, 1)),
        Axis("depth", *vary("depth", powers[:6]), (1, 1), (1, 1)),
        Axis(
            "threads",
            "threads",
            tuple(replace(tenth(4096), threads=n) for n in powers if n <= threads),
            (-1, 0),
            (-1, 0),
        ),
    ]


def run(
    *,
    threads: int | None = None,
    quick: bool = False,
    words: str = "",
    seconds: float = BUDGET,
    only: Sequence[Axis] | None = None,
    progress: Callable[[str], Any] = lambda text: None,
    save: Callable[[dict], Any] = lambda report: None,
) -> dict:
    """Returns a report with a row for each network, sparse and, up to `DENSE_WEIGHTS` weights a layer, dense.

    `ms` are interleaved medians of a step; `bytes` are counted from tensors, see `memory_lines`. `fits` has a row for
    each axis, implementation and cost, see `growth`.

    Args:
        words: only axes whose name has every one of them.
        seconds: of samples for a network.
        only: other axes than those of `axes`.

    Raises:
        UsageError: no axis has these words.
        RuntimeError: a result is wrong.
    """
    threads = torch.get_num_threads() if threads is None else threads
    chosen = [axis for axis in only or axes(threads) if all(word in axis.name for word in words.split())]
    if not chosen:
        names = ", ".join(repr(axis.name) for axis in axes(threads))
        raise UsageError(f"no axis has all the words of --case {words!r}; known: {names}")
    report = header("scaling", threads) | {"rows": [], "fits": []}
    for axis in chosen:
        for size in axis.sizes[:2] if quick else axis.sizes:
            found = [{"axis": axis.name, "size": getattr(size, axis.field)} | row for row in measured(size, seconds)]
            report["rows"] += found
            times = ", ".join(f"{row['impl']} {row['ms']:.3g} ms" for row in found)
            progress(f"{axis.name} {found[0]['size']}: {times}")
        report["fits"] = fits(report["rows"], chosen)
        save(report)
    return report


def measured(size: Size, seconds: float) -> list[dict[str, Any]]:
    """Returns the rows of a network, the dense one first."""
    with pinned(size.threads):
        steps = {"dense": Step(size, "dense")} if size.width**2 <= DENSE_WEIGHTS else {}
        steps["sparsekern"] = Step(size, "sparsekern")
        steps["sparsekern"].check()
        timings = interleave(dict(steps), budget=seconds)
        base = timings["dense"].median if "dense" in timings else None
        rows = [
            {
                "case": f"step {size.depth} x {size.width}x{size.width}",
                "impl": impl,
                "device": "cpu",
                "dtype": "float32",
                "sparsity": 0.0 if impl == "dense" else round(size.sparsity, 8),
                "batch": size.batch,
                "nonzeros": size.width**2 if impl == "dense" else size.nonzeros,
                **timings[impl].columns(base),
                "bytes": sum(count(step.network, step.optimizer, step.forward).values()),
                "threads": size.threads,
            }
            for impl, step in steps.items()
        ]
    del steps
    gc.collect()
    return rows


def fits(rows: Sequence[dict[str, Any]], axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Returns how each cost grows along each axis, where that has two points or more."""
    found = []
    for axis, impl in product(axes, ("sparsekern", "dense")):
        slopes = axis.dense if impl == "dense" else axis.slopes
        own = [row for row in rows if (row["axis"], row["impl"]) == (axis.name, impl)]
        for cost, ideal in zip(COSTS, slopes or (), strict=False):
            if len(own) > 1:
                slope, low, high = growth([(row["size"], row[cost]) for row in own], ideal)
                row = {"axis": axis.name, "impl": impl, "cost": cost, "slope": round(slope, 3), "ideal": ideal}
                found.append(row | {"from": low, "to": high})
    return found


class Step:
    """Training steps of a network, dense or sparse with a random pattern."""

    def __init__(self, size: Size, impl: str) -> None:
        torch.manual_seed(0)
        layers = (_layer(size, impl) for _ in range(size.depth))
        self.network = nn.Sequential(*layers)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-6, momentum=0.9)
        self.x = torch.randn(size.batch, size.width, requires_grad=True)
        self.dy = torch.randn(size.batch, size.width)

    def forward(self) -> Tensor:
        return self.network(self.x)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.x.grad = None
        self.forward().backward(self.dy)
        self.optimizer.step()

    def check(self) -> None:
        """Raises a RuntimeError if the first layer's output or one of its gradients is wrong."""
        error = max(_errors(self.network[0], self.x, self.dy))
        if not error <= TOLERANCE:
            raise RuntimeError(f"wrong: relative error {error:.1e}, allowed {TOLERANCE:.0e}")


def _layer(size: Size, impl: str) -> nn.Module:
    if impl == "dense":
        return nn.Linear(size.width, size.width)
    shape = (size.width, size.width)
    return SparseLinear(*shape, topology=Topology.random(shape, size.nonzeros))


def _errors(layer: Any, x: Tensor, dy: Tensor) -> Iterator[float]:
    """Yields how far output and input gradient of some samples, and some entries of the weight gradient, are from
    sums over the nonzeros in fp64."""
    output = layer(x)
    grad_x, grad_values = torch.autograd.grad(output, (x, layer.values), dy)
    rows, cols = (part.long() for part in _coordinates(layer.topology))
    values = layer.topology.to_csr(layer.values.detach()).double()[:, None]
    some_x, some_dy = x.detach()[:SAMPLES].double().t(), dy[:SAMPLES].double().t()
    exact = torch.zeros_like(some_dy).index_add_(0, rows, values * some_x[cols]) + layer.bias.double()[:, None]
    yield deviation(output[:SAMPLES].t(), exact.detach())
    yield deviation(grad_x[:SAMPLES].t(), torch.zeros_like(some_x).index_add_(0, cols, values * some_dy[rows]))
    few = torch.randint(len(rows), (min(ENTRIES, len(rows)),))
    exact = (dy[:, rows[few]].double() * x.detach()[:, cols[few]].double()).sum(0)
    yield deviation(layer.topology.to_csr(grad_values)[few], exact)


def _coordinates(topology: Topology) -> tuple[Tensor, Tensor]:
    found = topology.coordinates()
    return found // topology.cols, found % topology.cols

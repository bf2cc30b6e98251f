"""`sparsekern demo`: a sparse network beside its dense twin, in accuracy, time and memory."""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

from ..data import load
from ..errors import require
from ..settings import PLAIN
from ..text import columns, size
from ..training import Run, configure, figures
from ..training.files import folder as make_folder
from .progress import Progress


class Contender(Run):
    """A run that also keeps the time of every step and the accuracy of every epoch."""

    def __init__(self, **flags: Any) -> None:
        config = configure(**flags)
        super().__init__(config, load(config))
        self.times: list[float] = []
        self.accuracy: list[float] = []

    def advance(self, progress: Progress) -> None:
        last = time.perf_counter()

        def tick() -> None:
            nonlocal last
            self.times.append(time.perf_counter() - last)
            progress.step()
            last = time.perf_counter()

        self.train_epoch(tick)
        self.accuracy.append(self.evaluate()[1])


def run(arguments: argparse.Namespace) -> int:
    require("matplotlib")
    folder = make_folder(arguments.out)
    common = {key: getattr(arguments, key) for key in ("epochs", "width", "seed", "threads")}
    common |= {"data": "digits", "model": "mlp", "optimizer": "adam", "batch_size": 64, "schedule": "cosine"}
    common |= PLAIN
    dense = Contender(method="dense", **common)
    once_an_epoch = {"every": dense.steps_per_epoch}
    sparse = Contender(method="gse_grabo", sparsity=arguments.sparsity, set=once_an_epoch, **common)
    percent = f"{100 * arguments.sparsity:g} % sparse"
    print(
        f"digits: {len(dense.data.train)} images to learn from, {len(dense.data.test)} to be tested on\n"
        f"a network of {dense.weights()[1]:,} weights, and the same with {sparse.weights()[0]:,} of them ({percent})\n",
        flush=True,
    )
    with Progress(2 * arguments.epochs * dense.steps_per_epoch, 0, "training both") as progress:
        for epoch in range(1, arguments.epochs + 1):
            for contender in (dense, sparse) if epoch % 2 else (sparse, dense):
                contender.advance(progress)
            if epoch % max(1, arguments.epochs // 6) == 0 or epoch == arguments.epochs:
                progress.line(
                    f"epoch {epoch:3}/{arguments.epochs}   dense {dense.accuracy[-1]:7.2%} right   "
                    f"sparse {sparse.accuracy[-1]:7.2%} right"
                )
    bytes_dense, bytes_sparse = measure(dense), measure(sparse)
    print("\n" + compare(dense, sparse, bytes_dense, bytes_sparse, percent))
    rows = sparse.optimizer.report().rows
    stayed = sum(row["nnz"] * 2 * row["iou_first"] / (1 + row["iou_first"]) for row in rows)
    moved = 1 - stayed / sum(row["nnz"] for row in rows)
    print(f"\n{moved:.0%} of the sparse network's connections are not those it began with.")
    print(f"Picture: {draw(folder, dense, sparse, percent)}")
    return 0


def measure(contender: Run) -> dict[str, int]:
    """Returns the bytes held while training: weights (with their indices), gradients, optimizer state."""
    total = contender.memory.total
    return {
        "weights": total["values"] + total["indices"] + total["slack"],
        "gradients": total["gradients"],
        "optimizer state": total["optimizer"],
    }


def compare(dense: Contender, sparse: Contender, bytes_dense: dict, bytes_sparse: dict, percent: str) -> str:
    """Returns the table that the demo ends with."""
    a, b = dense.accuracy[-1], sparse.accuracy[-1]
    rows = [["", "dense", percent, "ratio"]]
    rows.append(["test accuracy", f"{a:.2%}", f"{b:.2%}", f"{b / a:.3f}"])
    a, b = median(dense.times), median(sparse.times)
    rows.append(["time per training step, median", f"{1e3 * a:.2f} ms", f"{1e3 * b:.2f} ms", f"{b / a:.3f}"])
    a, b = sum(dense.times), sum(sparse.times)
    rows.append(["time of all training steps", f"{a:.1f} s", f"{b:.1f} s", f"{b / a:.3f}"])
    names = {
        "weights": "memory: weights and indices",
        "gradients": "memory: gradients",
        "optimizer state": "memory: optimizer state",
    }
    for key, name in names.items():
        a, b = bytes_dense[key], bytes_sparse[key]
        rows.append([name, size(a), size(b), f"{b / a:.3f}"])
    a, b = sum(bytes_dense.values()), sum(bytes_sparse.values())
    rows.append(["memory: all three", size(a), size(b), f"{b / a:.3f}"])
    return columns(rows, right={1, 2, 3})


def draw(folder: Path, dense: Contender, sparse: Contender, percent: str) -> Path:
    """Draws `demo.png`: accuracy while learning, time of a step, memory."""
    drawing, (learning, speed, memory) = figures.figure(3, 1, width=4.4, height=3.8)
    epochs = range(1, len(dense.accuracy) + 1)
    names, colours = ["dense", percent], [figures.COLOURS[8], figures.COLOURS[0]]
    for contender, name, colour in zip((dense, sparse), names, colours, strict=True):
        learning.plot(epochs, [100 * a for a in contender.accuracy], color=colour, label=name, linewidth=1.6)
    figures.beside(learning)
    worst = min(a for c in (dense, sparse) for a in c.accuracy[len(c.accuracy) // 4 :])
    learning.set_ylim(100 * worst - 10, 100.5)  # the first epochs may fall below
    figures.title(learning, "accuracy on unseen digits", "epoch", "%")
    times = [1e3 * median(c.times) for c in (dense, sparse)]
    for place, (value, colour) in enumerate(zip(times, colours, strict=True)):
        speed.bar(place, value, width=0.6, color=colour)
        speed.annotate(f"{value:.2f} ms", (place, value), (0, 3), textcoords="offset points", ha="center", fontsize=9)
    figures.title(speed, f"time per step: {times[1] / times[0]:.2f} of dense", "", "milliseconds, median")
    base = [0.0, 0.0]
    parts = [measure(dense), measure(sparse)]
    for key, colour in zip(parts[0], (figures.COLOURS[0], figures.COLOURS[5], figures.COLOURS[4]), strict=True):
        values = [part[key] / 2**20 for part in parts]
        label = "weights, indices" if key == "weights" else key
        memory.bar([0, 1], values, width=0.6, bottom=base, color=colour, label=label)
        base = [low + value for low, value in zip(base, values, strict=True)]
    for place, value in enumerate(base):
        memory.annotate(f"{value:.2f} MiB", (place, value), (0, 3), textcoords="offset points", ha="center", fontsize=9)
    figures.beside(memory)
    figures.title(memory, f"training memory: {base[1] / base[0]:.2f} of dense", "", "MiB")
    for axis in (speed, memory):
        axis.set_xticks([0, 1], names)
        axis.set_xlim(-0.6, 1.6)
        axis.margins(y=0.12)
        axis.grid(False, axis="x")
    return figures.save(drawing, folder / "demo.png")

"""Methods on a text: losses beside time and memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.papers import ranking
from sparsekern.bench import markdown
from sparsekern.training.figures import COLOURS, INK, beside, figure, save, title

Value = Callable[[dict], float | None]


def bits(run: dict) -> float:
    """Bits that a byte of the test text takes."""
    return run["test_bits_per_byte"]


def milliseconds(run: dict) -> float | None:
    """Time of a step: measured alone, if it was."""
    return run["milliseconds"]


def seconds(run: dict) -> float | None:
    """Time of the training by the measured time of a step."""
    return None if run["milliseconds"] is None else run["milliseconds"] * run["steps"] / 1e3


def processor(run: dict) -> float:
    """Milliseconds that the processor took for a step, changes of pattern included."""
    return 1e3 * fmean(run["cpu_seconds"])


def weights(run: dict) -> float:
    """MiB of weights, indices, gradients and optimizer state."""
    return run["peak_weight_bytes"] / 2**20


def process(run: dict) -> float:
    """MiB of the whole process."""
    return run["peak_memory_bytes"] / 2**20


TABLES: tuple[tuple[str, str, Value, str], ...] = (
    ("steps", "bits per byte after as many steps", bits, ".3f"),
    ("time", "bits per byte after as much time", bits, ".3f"),
    ("time", "steps in this time", lambda run: run["steps"], ",.0f"),
    ("steps", "ms per step, measured by turns", milliseconds, ".0f"),
    ("steps", "ms of the processor per step, on a machine that did other work", processor, ".0f"),
    ("steps", "memory of the weights, MiB", weights, ".1f"),
    ("steps", "peak memory of the process, MiB", process, ".0f"),
)


def tables(runs: list[dict]) -> list[str]:
    """Markdown lines: of each number a table, a row a method, a column a sparsity."""
    dense = [run for run in runs if run["what"] == "dense"]
    lines: list[str] = []
    for group, name, value, form in TABLES:
        own = [run for run in runs if run["group"] == group and run["what"] != "dense" and value(run) is not None]
        if not own:
            continue
        ats = sorted({run["at"] for run in own})
        rows = [["dense", _cell(dense, value, form), *[""] * len(ats)]] if dense else []
        for what in dict.fromkeys(run["what"] for run in own):
            cells = [[run for run in own if run["what"] == what and run["at"] == at] for at in ats]
            rows.append([f"`{what}`", "", *(_cell(cell, value, form) for cell in cells)])
        lines += ["", *markdown.table([name, "0 %", *(f"{100 * at:g} %" for at in ats)], rows).splitlines()]
    return [*lines[1:], "", ranking.collapsed(runs)]


def _cell(runs: Sequence[dict], value: Value, form: str) -> str:
    """Mean and, of losses, deviation over the seeds."""
    values = [found for run in runs if (found := value(run)) is not None]
    if not values:
        return ""
    spread = f" ± {stdev(values):{form}}" if value is bits and len(values) > 1 else ""
    return f"{fmean(values):{form}}{spread}"


def draw(folder: Path, runs: list[dict]) -> Path:
    """`figure.png`: the loss against sparsity, time and memory, a line a method through its sparsities, of which the
    highest is filled, with one standard deviation over the seeds."""
    steps, timed = ([run for run in runs if run["group"] == group] for group in ("steps", "time"))
    dense = [run for run in steps if run["what"] == "dense"]
    measured = all(run["milliseconds"] is not None for run in steps)
    time: Value = seconds if measured else lambda run: processor(run) * run["steps"] / 1e3
    panels: list[tuple[list[dict], str, Value, str]] = [
        (steps, "after as many steps", lambda run: 100 * (run["at"] or 0), "sparsity, %"),
        (steps, "the same against time", time, "time of the training, s" if measured else "time of the processor, s"),
        (steps, "the same against memory", weights, "weights, gradients, optimizer, MiB"),
        (steps, "the same against memory", process, "peak of the process, MiB"),
    ]
    if timed:
        panels.append(([*dense, *timed], "after as much time", lambda run: 100 * (run["at"] or 0), "sparsity, %"))
    drawing, axes = figure(3, 2, width=4.2, height=3.2, sharey=True)
    colours = dict(zip(dict.fromkeys(run["what"] for run in runs if run["what"] != "dense"), COLOURS, strict=False))
    for axis, (own, name, x, label) in zip(axes, panels, strict=False):
        for what in dict.fromkeys(run["what"] for run in own):
            _line(axis, [run for run in own if run["what"] == what], x, colours.get(what, INK))
        title(axis, name, label, "bits per byte")
        if label.startswith("sparsity"):
            _end(axis, own)
        else:
            axis.set_xlim(0, None)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    beside(axes[2])
    first = runs[0]
    seeds = len({run["seed"] for run in runs})
    many = f"{seeds} seed{'s' * (seeds != 1)}, bars of one standard deviation"
    head = f"{first['model']}; as many steps: {dense[0]['steps'] if dense else first['steps']}; {many}"
    drawing.suptitle(head, fontsize=12, color=INK, x=0.01, ha="left")
    return save(drawing, folder / "figure.png")


def _line(axis: Any, runs: list[dict], x: Value, colour: str) -> None:
    """The means of a method, the last one filled; of the dense network a square and a level."""
    ats = sorted({run["at"] for run in runs}, key=lambda at: at or 0)
    cells = [[run for run in runs if run["at"] == at] for at in ats]
    xs = [fmean(x(run) for run in cell) for cell in cells]  # type: ignore[misc]
    ys = [fmean(map(bits, cell)) for cell in cells]
    dense = runs[0]["what"] == "dense"
    style = {"color": colour, "marker": "s" if dense else "o", "markersize": 4.5, "linewidth": 1.2}
    bars = [stdev(map(bits, cell)) if len(cell) > 1 else 0.0 for cell in cells]
    axis.errorbar(xs, ys, yerr=bars, markerfacecolor="white", capsize=2, **style)
    axis.plot(xs[-1:], ys[-1:], label=runs[0]["what"], **style)
    if dense:
        axis.axhline(ys[0], color=INK, linewidth=1.0, linestyle=":")


def _end(axis: Any, runs: list[dict]) -> None:
    """Ends the axis of sparsities at those that were trained."""
    ticks = [100 * at for at in sorted({run["at"] for run in runs if run["at"]})]
    axis.set_xlim(min(ticks) - 3, max(ticks) + 2)
    axis.set_xticks(ticks)

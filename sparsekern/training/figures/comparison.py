"""The picture of a comparison."""

from itertools import pairwise
from math import ceil, log2
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

from .style import COLOURS, INK, cut, figure, save, title

MARKERS = "os^Dv"  # another one whenever the colours are used up
COLUMN = 24  # of methods in a column of the legend


def draw_comparison(folder: Path, results: dict) -> Path:
    """`figure.png`: accuracy against sparsity, a line a method, bars one standard deviation over the seeds.

    The axis is that of the weights left, so that halving them takes the same way everywhere. Methods are listed as they
    stand at their highest sparsity; what is far worse than most is named below.
    """
    dense = [row for row in results["table"] if row["method"] == "dense"]
    lines: dict[tuple[str, str], list[dict]] = {}
    for row in results["table"]:
        if row["method"] != "dense":
            lines.setdefault((row["method"], row["backend"]), []).append(row)
    rows = [*(row for own in lines.values() for row in own), *dense]
    keys = sorted(lines, key=lambda key: -max(lines[key], key=_sparsity)["accuracy_mean"])
    columns = ceil((len(keys) + len(dense)) / COLUMN)
    height = max(4.6, 0.22 * min(len(keys) + 1, COLUMN))
    drawing, (axis,) = figure(1, 1, width=7.2 + 1.8 * max(0, columns - 1), height=height)
    several = len({backend for _, backend in keys}) > 1
    _draw_lines(axis, lines, keys, several)
    for row in dense:
        mean, std = 100 * row["accuracy_mean"], 100 * (row["accuracy_std"] or 0.0)
        axis.axhline(mean, color=INK, linewidth=1.2, linestyle=":", label=f"dense  {mean:.2f}")
        axis.axhspan(mean - std, mean + std, color=INK, alpha=0.08, linewidth=0)
    named = [(f"{_name(row, several)} {100 * row['sparsity']:g} %", 100 * row["accuracy_mean"]) for row in rows]
    values = [mean for _, mean in named]
    far = cut(axis, named, max(5.0, 4 * (max(values) - median(values))))
    below = "\n" + fill("far below: " + ", ".join(far), 80) if far else ""
    settings = results["settings"]
    seeds = len(results["seeds"])
    title(
        axis,
        f"{settings['model']} on {settings['data']}, {settings['epochs']} epochs, {seeds} seed{'s' * (seeds != 1)}",
        "sparsity" + below,
        "test accuracy, %",
    )
    axis.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns)
    return save(drawing, folder / "figure.png")


def _draw_lines(
    axis: Any, lines: dict[tuple[str, str], list[dict]], keys: list[tuple[str, str]], several: bool
) -> None:
    methods = list(dict.fromkeys(method for method, _ in keys))
    grid = sorted({_place(row) for own in lines.values() if len(own) > 1 for row in own})
    grid = grid or sorted({_place(row) for own in lines.values() for row in own})
    room = 0.4 * min((b - a for a, b in pairwise(grid)), default=1.0)
    for k, key in enumerate(keys):
        own, (method, backend) = sorted(lines[key], key=_sparsity), key
        number = methods.index(method)
        colour = COLOURS[number % len(COLOURS)]
        shift = room * (k / max(1, len(keys) - 1) - 0.5)  # so that error bars do not hide each other
        axis.errorbar(
            [_place(row) + shift for row in own],
            [100 * row["accuracy_mean"] for row in own],
            yerr=None if own[0]["accuracy_std"] is None else [100 * (row["accuracy_std"] or 0.0) for row in own],
            color=colour,
            linestyle="--" if backend == "masked" else "-",
            marker=MARKERS[number // len(COLOURS) % len(MARKERS)],
            markerfacecolor="white" if backend == "masked" else colour,
            markersize=5,
            capsize=3,
            linewidth=1.4,
            label=_name(own[-1], several) + _number(own, grid),
        )
    ticks = {_place(row): f"{100 * row['sparsity']:g} %" for own in lines.values() for row in own}
    axis.set_xticks(grid, [ticks[place] for place in grid])


def _name(row: dict, several: bool) -> str:
    """With its backend, if there are several."""
    return f"{row['method']} ({row['backend']})" if several else row["method"]


def _number(own: list[dict], grid: list[float]) -> str:
    """Returns the label of a line that is one point; with its sparsity, if that is no tick of the axis."""
    if len(own) > 1:
        return ""
    emerged = "" if _place(own[0]) in grid else f" at {100 * own[0]['sparsity']:g} %"
    return f"  {100 * own[0]['accuracy_mean']:.2f}{emerged}"


def _place(row: dict) -> float:
    """Returns the place of a sparsity on the axis: how often the weights were halved."""
    return -log2(1 - min(row["sparsity"], 0.9999))


def _sparsity(row: dict) -> float:
    return row["sparsity"]

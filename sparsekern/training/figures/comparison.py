"""The picture of a comparison."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from .style import COLOURS, INK, cut, figure, save, title

Panel = tuple[str, Callable[[dict], float | None]]
ROW = 0.24  # inches


def draw_comparison(folder: Path, results: dict) -> Path:
    """`figure.png`: a row for each method, the best first; a dot for each sparsity, with one standard deviation over
    the seeds. Panels show the accuracy and, where the results have them, time and memory, from 0 on.

    Lines mark the dense network. What is far worse than most lies outside, at the edge, and is told in numbers.
    """
    rows = results["table"]
    own: dict[tuple[str, str], list[dict]] = {}
    for row in sorted(rows, key=_sparsity):
        own.setdefault((row["method"], row["backend"]), []).append(row)
    order = sorted(own, key=lambda key: (key[0] != "dense", -own[key][-1]["accuracy_mean"]))
    levels = _levels(results, own)
    panels = [panel for panel in PANELS if all(panel[1](row) for row in rows)]
    drawing, axes = figure(len(panels), 1, width=4.2, height=max(2.4, ROW * len(order) + 1.3), sharey=True)
    for axis, (name, value) in zip(axes, panels, strict=True):
        for place, key in enumerate(order):
            _draw_row(axis, place, own[key], value, levels)
        title(axis, name, "")
        axis.grid(True, axis="y", linewidth=0.4)
    _end_accuracy(axes[0], [own[key] for key in order])
    for axis in axes[1:]:
        axis.set_xlim(0, None)
    several = len({backend for method, backend in own if method != "dense"}) > 1
    axes[0].set_yticks(range(len(order)), [_name(own[key], several, levels) for key in order])
    axes[0].set_ylim(len(order) - 0.4, -0.6)
    _head(drawing, results, levels)
    return save(drawing, folder / "figure.png")


def _accuracy(row: dict) -> float | None:
    return 100 * row["accuracy_mean"]


def _milliseconds(row: dict) -> float | None:
    return 1e3 * row.get("seconds_per_step", 0.0)


def _mebibytes(row: dict) -> float | None:
    return (row.get("peak_weight_bytes") or 0) / 2**20


PANELS: tuple[Panel, ...] = (
    ("test accuracy, %", _accuracy),
    ("time per step, ms", _milliseconds),
    ("memory of the weights, MiB", _mebibytes),
)


def _levels(results: dict, own: dict[tuple[str, str], list[dict]]) -> dict[float, str]:
    """Returns the colours of the sparsities that were asked for, the highest darkest."""
    asked = results.get("sparsities") or {row["sparsity"] for rows in own.values() if len(rows) > 1 for row in rows}
    asked = asked or {row["sparsity"] for (method, _), rows in own.items() for row in rows if method != "dense"}
    return {level: COLOURS[i % len(COLOURS)] for i, level in enumerate(sorted(asked, reverse=True))}


def _draw_row(
    axis: Any, place: int, rows: list[dict], value: Callable[[dict], float | None], levels: dict[float, str]
) -> None:
    for row in rows:
        dense = row["method"] == "dense"
        std = (row["accuracy_std"] or 0.0) if value is _accuracy else 0.0
        axis.errorbar(
            [value(row)],
            [place],
            xerr=[100 * std] if std else None,
            color=INK if dense else levels.get(row["sparsity"], COLOURS[8]),
            marker="s" if dense else "o" if row["sparsity"] in levels else "D",
            markersize=5,
            markerfacecolor="white" if row["backend"] == "masked" else None,
            capsize=2.5,
            linewidth=1.2,
            linestyle="none",
        )
        if dense:
            axis.axvline(value(row), color=INK, linewidth=1.0, linestyle=":")


def _end_accuracy(axis: Any, order: list[list[dict]]) -> None:
    """Ends the axis of accuracies, and tells what lies outside."""
    named = [(str(place), 100 * row["accuracy_mean"]) for place, rows in enumerate(order) for row in rows]
    values = [mean for _, mean in named]
    depth = max(5.0, 4 * (max(values) - median(values)))
    cut(axis, named, depth, along="x")
    edge = axis.get_xlim()[0]
    for place, rows in enumerate(order):
        outside = [mean for row in rows if (mean := 100 * row["accuracy_mean"]) <= max(values) - depth]
        if outside:
            text = "◂ " + ", ".join(f"{mean:.1f}" for mean in outside)
            axis.text(edge, place, text, va="center", fontsize=8, color=INK)


def _name(rows: list[dict], several: bool, levels: dict[float, str]) -> str:
    """With its backend, if there are several, and with its sparsity, if that emerged."""
    row = rows[-1]
    if row["method"] == "dense":
        return "dense"
    emerged = "" if row["sparsity"] in levels else f", {100 * row['sparsity']:.3g} %"
    return row["method"] + emerged + (f" ({row['backend']})" if several else "")


def _head(drawing: Any, results: dict, levels: dict[float, str]) -> None:
    """Says what was trained, and which colour is which sparsity."""
    settings, seeds = results["settings"], len(results["seeds"])
    head = f"{settings['model']} on {settings['data']}, {settings['epochs']} epochs, {seeds} seed{'s' * (seeds != 1)}"
    if len(levels) == 1:
        head += f", {100 * next(iter(levels)):g} % sparse"
    drawing.suptitle(head, fontsize=12, color=INK, x=0.01, ha="left")
    if len(levels) > 1:
        axis = drawing.axes[-1]
        for level in sorted(levels):
            axis.plot([], [], color=levels[level], marker="o", linestyle="none", label=f"{100 * level:g} %")
        axis.legend(frameon=False, fontsize=9, title="sparsity", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _sparsity(row: dict) -> float:
    return row["sparsity"]

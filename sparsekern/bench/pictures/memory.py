"""The memory of training steps against sparsity, line by line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import require
from ...training.figures import COLOURS, INK, figure, title
from ..analysis import Row
from ..memory_lines import LINES
from .machine import Machine, head

SHADES = dict(zip(LINES, (0, 5, 8, 1, 4, 3, 2), strict=True))  # of COLOURS


def draw(machines: Sequence[Machine]) -> Any:
    """Bars for each sparsity; a mark where the peak was measured, which holds what lives for less than a step, too."""
    panels = [
        (machine, case, rows)
        for machine in machines
        for case in dict.fromkeys(row["case"] for row in machine.rows("memory"))
        if (rows := [row for row in machine.rows("memory") if row["case"] == case and "lines" in row])
    ]
    if not panels:
        return None
    columns = max(sum(machine is other for other, *_ in panels) for machine in machines)
    drawing, axes = figure(columns, -(-len(panels) // columns), width=4.2, height=3.4)
    for axis, (machine, case, rows) in zip(axes, panels, strict=False):
        _draw_bars(axis, rows)
        title(axis, case.partition(",")[0], f"sparsity, %; {machine.title}", "MiB")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    patch, line = require("matplotlib.patches").Patch, require("matplotlib.lines").Line2D
    handles = [patch(color=COLOURS[shade], label=name) for name, shade in SHADES.items()]
    handles.append(line([], [], color=INK, marker="_", linestyle="none", markersize=12, label="measured peak"))
    head(drawing, "Memory of a training step, SGD with momentum, batch 128", handles)
    return drawing


def _draw_bars(axis: Any, rows: Sequence[Row]) -> None:
    axis.grid(False, axis="x")
    for place, row in enumerate(rows):
        bottom = 0.0
        for name, shade in SHADES.items():
            size = row["lines"][name] / 2**20
            axis.bar(place, size, bottom=bottom, width=0.75, color=COLOURS[shade])
            bottom += size
        peak = row["bytes"] / 2**20
        axis.plot([place], [peak], color=INK, marker="_", markersize=16, markeredgewidth=2)
        axis.annotate(
            f"{peak:.0f}", (place, max(peak, bottom)), (0, 4), textcoords="offset points", ha="center", fontsize=8
        )
    labels = ["dense" if row["impl"] == "dense" else f"{100 * row['sparsity']:.0f}" for row in rows]
    axis.set_xticks(range(len(rows)), labels)
    axis.set_ylim(0, 1.12 * max(row["bytes"] for row in rows) / 2**20)

"""The map of crossovers: from which sparsity on a linear layer is faster than dense, by width and batch."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isinf
from typing import Any

from ...errors import require
from ...training.figures import figure, title
from ..analysis import Point, break_even
from .machine import COLUMNS, Machine, head, hide_unused

Cell = tuple[int, int]  # width, batch


def crossovers(machine: Machine) -> dict[Cell, list[Point]]:
    """Returns the ratios to dense by sparsity of each width and batch."""
    points: dict[Cell, list[Point]] = {}
    for row in machine.rows("crossovers"):
        if row["impl"] == "sparsekern" and row["ratio_to_dense"] is not None:
            width = int(row["case"].split()[1].partition("x")[0])
            points.setdefault((width, row["batch"]), []).append((row["sparsity"], row["ratio_to_dense"]))
    return points


def draw(machines: Sequence[Machine]) -> Any:
    found = [(machine, points) for machine in machines if (points := crossovers(machine))]
    if not found:
        return None
    columns = min(COLUMNS, len(found))
    drawing, axes = figure(columns, -(-len(found) // columns), width=5.2, height=3.6)
    for axis, (machine, points) in zip(axes, found, strict=False):
        _draw_map(axis, points)
        title(axis, machine.title, "batch", "width")
    hide_unused(axes, len(found))
    head(drawing, "Break-even with dense in % of sparsity: square linear layers")
    return drawing


def _draw_map(axis: Any, points: dict[Cell, list[Point]]) -> None:
    widths, batches = (sorted({cell[i] for cell in points}) for i in (0, 1))
    colours = require("matplotlib").colormaps["cividis"]
    axis.grid(False)
    for (width, batch), ratios in points.items():
        even, (low, *_, high) = break_even(ratios), sorted(sparsity for sparsity, _ in ratios)
        value = (low if even < 0 else 1.0) if isinf(even) else even
        text = f"< {100 * low:.0f}" if even == -inf else f"> {100 * high:.0f}" if even == inf else f"{100 * even:.0f}"
        x, y = batches.index(batch), widths.index(width)
        axis.fill_between([x - 0.48, x + 0.48], y - 0.48, y + 0.48, color=colours(value), linewidth=0)
        axis.text(x, y, text, ha="center", va="center", fontsize=10, color="white" if value < 0.55 else "black")
    axis.set_xticks(range(len(batches)), [str(batch) for batch in batches])
    axis.set_yticks(range(len(widths)), [str(width) for width in widths])
    axis.set_xlim(-0.5, len(batches) - 0.5)
    axis.set_ylim(-0.5, len(widths) - 0.5)

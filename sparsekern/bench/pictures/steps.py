"""The time of whole training steps by what it is spent on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import require
from ...training.figures import COLOURS, INK, figure, title
from ..analysis import Row
from ..step_parts import PARTS, PYTHON, REST
from .machine import Machine, head

# In the order of `step_parts`; what is small everywhere joins the other operators.
SHOWN = ("convolution", "linear", "batch norm", "ReLU", "pooling", "optimizer", "mask", REST, PYTHON)


def draw(machines: Sequence[Machine]) -> Any:
    panels = [
        (machine, case, rows)
        for machine in machines
        for case in dict.fromkeys(row["case"] for row in machine.rows("train"))
        if (rows := [row for row in machine.rows("train") if row["case"] == case and row.get("parts")])
    ]
    if not panels:
        return None
    tallest = max(len(rows) for *_, rows in panels)
    drawing, axes = figure(1, len(panels), width=9.0, height=0.32 * tallest + 0.8)
    for axis, (machine, case, rows) in zip(axes, panels, strict=True):
        _draw_bars(axis, rows)
        title(axis, f"{case.removeprefix('step ')}, batch {rows[0]['batch']}, {machine.title}", "")
    axes[-1].set_xlabel("milliseconds", fontsize=9, color=INK)
    patch = require("matplotlib.patches").Patch
    used = [part for part in SHOWN if any(spent(row)[part] > 0.005 * row["ms"] for *_, rows in panels for row in rows)]
    handles = [patch(color=COLOURS[SHOWN.index(part)], label=part) for part in used]
    head(drawing, "Where the time of a training step goes: the median step, in the shares of a profiled one", handles)
    return drawing


def spent(row: Row) -> dict[str, float]:
    """Returns the milliseconds of the median step by `SHOWN`, as a profiled step divides them.

    The profiled step itself was measured at another moment than the median, and slowed by the profiler.
    """
    parts, total = row["parts"], sum(row["parts"].values())
    joined = sum(parts[part] for part in (*PARTS, REST) if part not in SHOWN) + parts[REST]
    return {part: (joined if part == REST else parts[part]) / total * row["ms"] for part in SHOWN}


def _draw_bars(axis: Any, rows: Sequence[Row]) -> None:
    axis.grid(False, axis="y")
    for place, row in enumerate(rows):
        start = 0.0
        for part, ms in spent(row).items():
            axis.barh(place, ms, left=start, height=0.7, color=COLOURS[SHOWN.index(part)])
            start += ms
        axis.annotate(f"{start:.0f}", (start, place), (6, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), [_named(row) for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(0, 1.08 * max(row["ms"] for row in rows))


def _named(row: Row) -> str:
    if not row["sparsity"]:
        return row["impl"]
    pattern = "" if row["pattern"] == "uniform" else f" {row['pattern']}"
    return f"{row['impl']}, {100 * row['sparsity']:.0f} %{pattern}"

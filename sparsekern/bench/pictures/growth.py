"""How time and memory of a training step grow with each size of a network."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

from ...errors import require
from ...training.figures import INK, figure, title
from ..analysis import Point
from .machine import COLUMNS, Machine, head

COSTS = {"ms": ("milliseconds", 1.0), "bytes": ("MiB", 1 / 2**20)}
LINE = 0.075  # the height of a line of text in a panel
Line = tuple[Machine, str, list[Point], dict | None]


def draw(machines: Sequence[Machine]) -> Any:
    """Both scales are logarithmic; numbers tell the fitted slopes, dotted lines the ideal ones."""
    machines = [machine for machine in machines if machine.rows("scaling")]
    names = list(dict.fromkeys(row["axis"] for machine in machines for row in machine.rows("scaling")))
    if not names:
        return None
    rows = -(-len(names) // COLUMNS)
    drawing, axes = figure(COLUMNS, rows * len(COSTS), width=3.9, height=2.5)
    for axis in axes:
        axis.set_visible(False)
    for block, (cost, (unit, factor)) in enumerate(COSTS.items()):
        for place, name in enumerate(names):
            axis = axes[block * rows * COLUMNS + place]
            axis.set_visible(True)
            _draw_panel(axis, [line for machine in machines for line in _lines(machine, name, cost, factor)])
            title(axis, f"{unit} by {name}", "")
    line = require("matplotlib.lines").Line2D
    handles = [line([], [], color=m.colour, marker=m.marker, label=m.title) for m in machines]
    handles.append(line([], [], color=INK, marker="s", markerfacecolor="white", linestyle="--", label="dense"))
    handles.append(line([], [], color=INK, linestyle=":", label="ideal slope"))
    head(drawing, "Cost of a training step of linear layers by one size at a time, with fitted slopes", handles)
    return drawing


def _lines(machine: Machine, axis: str, cost: str, factor: float) -> list[Line]:
    found = []
    fits = machine.reports["scaling"]["fits"] if "scaling" in machine.reports else []
    for impl in ("sparsekern", "dense"):
        own = [row for row in machine.rows("scaling") if (row["axis"], row["impl"]) == (axis, impl)]
        fit = next((f for f in fits if (f["axis"], f["impl"], f["cost"]) == (axis, impl, cost)), None)
        if own:
            found.append((machine, impl, [(row["size"], factor * row[cost]) for row in own], fit))
    return found


def _draw_panel(axis: Any, lines: list[Line]) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    for machine, impl, points, _ in lines:
        x, y = zip(*points, strict=True)
        dense = impl == "dense"
        look: dict[str, Any] = {"color": machine.colour, "marker": "s" if dense else machine.marker, "markersize": 4}
        look |= {"linestyle": "--", "markerfacecolor": "white", "linewidth": 1} if dense else {"linewidth": 1.6}
        axis.plot(x, y, **look)
    axis.margins(0.12)
    low, high = axis.get_ylim()
    _label(axis, [line for line in lines if line[3] is not None], low, high)
    for _, impl, points, fit in lines:
        if fit is not None and impl != "dense":
            x, last = [size for size, _ in points], points[-1]
            ideal = [last[1] * (size / last[0]) ** fit["ideal"] for size in x]
            axis.plot(x, ideal, color=INK, linestyle=":", linewidth=1)
    axis.set_ylim(low, high)
    _ticks(axis)


def _label(axis: Any, lines: list[Line], low: float, high: float) -> None:
    """Writes the slopes beside the ends of the lines, each above the one below it; equal ones once."""
    seen: dict[tuple[str, str], tuple[Machine, Point, str]] = {}
    for machine, impl, points, fit in lines:
        text = f"{fit['slope']:.2f}"  # type: ignore[index]
        seen.setdefault((impl, text), (machine, points[-1], text))
    height = 0.0
    for machine, (x, y), text in sorted(seen.values(), key=lambda label: label[1][1]):
        height = max(log(y / low) / log(high / low), height)
        place = {"xycoords": axis.get_xaxis_transform(), "textcoords": "offset points", "va": "center"}
        axis.annotate(text, (x, height), (5, 0), fontsize=8, color=machine.colour, **place)
        height += LINE


def _ticks(axis: Any) -> None:
    """Writes numbers as they are, a few to an axis however short it is."""
    ticker = require("matplotlib.ticker")
    for scale, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
        scale.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=6))
        scale.set_major_formatter(ticker.FuncFormatter(_number))
        scale.set_minor_locator(ticker.NullLocator())
    axis.tick_params(labelsize=8)


def _number(value: float, _: int) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"

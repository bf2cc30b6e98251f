"""Ratio to dense against sparsity, a panel for each layer, with break-evens marked."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isinf
from typing import Any

from ...errors import require
from ...training.figures import INK, figure, title
from ..analysis import Point, break_even, fastest, is_ours
from .machine import COLUMNS, Machine, head, hide_unused

MOST = 12  # panels of a figure
TICKS = (0.3, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
DTYPES = ("float32", "bfloat16", "float16", "float64")  # in this order
SHORT = {"float32": "", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}
Key = tuple[str, int, str]  # shape, batch, dtype


def linear(machines: Sequence[Machine]) -> Any:
    return _draw(machines, "kernels", "Training step of a linear layer divided by dense")


def convolutions(machines: Sequence[Machine]) -> Any:
    return _draw(machines, "convolutions", "Training step of a convolution divided by dense")


def curves(machine: Machine, benchmark: str) -> dict[Key, tuple[list[Point], list[Point]]]:
    """Returns, for each layer, its ratios to dense by sparsity: ours, and the lowest of all others."""
    cells: dict[Key, dict[float, list[dict]]] = {}
    for row in machine.rows(benchmark):
        op, shape = row["case"].split()
        if op == "step":
            cells.setdefault((shape, row["batch"], row["dtype"]), {}).setdefault(row["sparsity"], []).append(row)
    found = {}
    for key, by_sparsity in cells.items():
        ours, others = [], []
        for sparsity, rows in sorted(by_sparsity.items()):
            own = next((row for row in rows if row["impl"] == "sparsekern" and row["ms"] is not None), None)
            best = fastest(row for row in rows if not is_ours(row["impl"]))
            if own is not None and own["ratio_to_dense"] is not None and best is not None:
                ours.append((sparsity, own["ratio_to_dense"]))
                others.append((sparsity, best["ratio_to_dense"]))
        if len(ours) > 2:
            found[key] = ours, others
    return found


def _draw(machines: Sequence[Machine], benchmark: str, text: str) -> Any:
    machines = [machine for machine in machines if machine.rows(benchmark)]
    own = [curves(machine, benchmark) for machine in machines]
    keys = list(dict.fromkeys(key for found in own for key in found))
    keys = sorted(keys, key=lambda key: DTYPES.index(key[2]))[:MOST]
    if not keys:
        return None
    rows = -(-len(keys) // COLUMNS)
    drawing, axes = figure(COLUMNS, rows, width=3.6, height=2.7, sharex=True, sharey=True)
    for axis, (shape, batch, dtype) in zip(axes, keys, strict=False):
        axis.axhline(1, color=INK, linewidth=1)
        for place, (machine, found) in enumerate(zip(machines, own, strict=True)):
            if (shape, batch, dtype) in found:
                _draw_machine(axis, machine, place, *found[shape, batch, dtype])
        short = SHORT[dtype]
        title(axis, f"{_named(shape)}, batch {batch}" + (f", {short} / dense {short}" if short else ""), "")
        _scales(axis)
    hide_unused(axes, len(keys))
    for axis in axes[max(0, len(keys) - COLUMNS) : len(keys)]:
        axis.set_xlabel("sparsity, %", fontsize=9, color=INK)
        axis.tick_params(labelbottom=True)
    line = require("matplotlib.lines").Line2D
    handles = [line([], [], color=m.colour, marker=m.marker, markersize=5, label=m.title) for m in machines]
    handles.append(line([], [], color=INK, linestyle="--", linewidth=1, label="fastest of all else"))
    handles.append(
        line([], [], color=INK, marker="|", markersize=12, linestyle="none", label="break-even, in the corner")
    )
    head(drawing, text, handles)
    return drawing


def _draw_machine(axis: Any, machine: Machine, place: int, ours: list[Point], others: list[Point]) -> None:
    left = [1 - sparsity for sparsity, _ in ours]
    axis.plot(left, [r for _, r in others], color=machine.colour, linestyle="--", linewidth=1)
    axis.plot(left, [r for _, r in ours], color=machine.colour, marker=machine.marker, markersize=4, linewidth=1.6)
    even = break_even(ours)
    if not isinf(even):
        axis.plot([1 - even], [1], color=machine.colour, marker="|", markersize=14, markeredgewidth=2)
    text = f"< {100 * ours[0][0]:.0f} %" if even == -inf else "none" if even == inf else f"{100 * even:.0f} %"
    corner = {"transform": axis.transAxes, "ha": "left", "va": "bottom"}  # the one that no curve comes to
    axis.text(0.02, 0.02 + 0.09 * place, text, fontsize=9, color=machine.colour, **corner)


def _scales(axis: Any) -> None:
    ticker = require("matplotlib.ticker")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(0.78, 0.008)
    axis.set_xticks([1 - sparsity for sparsity in TICKS], [f"{100 * sparsity:.0f}" for sparsity in TICKS])
    axis.set_yticks([0.05, 0.1, 0.2, 0.5, 1, 2])
    axis.yaxis.set_major_formatter("{x:g}")
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_minor_locator(ticker.NullLocator())


def _named(shape: str) -> str:
    """Returns a layer as titles name it: "3x3, 64 → 128, 32x32, stride 2"."""
    if not shape.startswith("conv"):
        return shape
    kernel, channels, size = shape.removeprefix("conv").split("/")
    square, _, stride = kernel.partition("s")
    return ", ".join([square, channels.replace("-", " → "), size, *([f"stride {stride}"] if stride else [])])

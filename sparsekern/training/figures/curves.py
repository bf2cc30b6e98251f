"""The picture of a run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ...errors import require
from .style import COLOURS, INK, beside, figure, remark, save, spread, title

MOST_ROWS = 24  # of layers whose numbers can be read in a picture
MASKS = {"magnitude_sparsity": "magnitude", "snr_sparsity": "signal to noise", "sparsity": "both"}


def draw_run(path: Path, config: dict, history: list[dict]) -> Path:
    """Draws loss, accuracy, sparsity of each layer and how far its pattern moved from the first.

    Where a method reports them: the sparsity of each of its masks, the change of its mask, and the error of pruning.
    At last the time of a step and the memory of the weights, from 0 on.
    """
    panels = [_draw_loss, _draw_accuracy, _draw_layers, _draw_change]
    rows = history[-1]["layers"]
    if _all_have(rows, *MASKS):
        panels[2] = _draw_masks
        panels.append(_draw_consecutive)
    elif _all_have(rows, "error", "flips"):
        panels.append(_draw_flips)
    if _all_have(rows, "error"):
        panels.append(_draw_error)
    panels += [panel for key, panel in COSTS.items() if all(row.get(key) for row in history)]
    columns = 2 if len(panels) <= 4 else 3
    longest = max((len(row["name"]) for row in rows), default=0)  # names stand beside the axes
    drawing, axes = figure(columns, -(-len(panels) // columns), width=5.2 + 0.1 * min(40, max(0, longest - 8)))
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis, history)
        if panel not in (_draw_layers, _draw_masks):
            axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    head = f"{config['method']} · {config['model']} · {config['data']} · seed {config['seed']}"
    drawing.suptitle(head, fontsize=12, color=INK, x=0.01, ha="left")
    return save(drawing, path)


def _all_have(rows: list[dict], *keys: str) -> bool:
    return bool(rows) and all(row.get(key) is not None for row in rows for key in keys)


def _epochs(history: list[dict]) -> list[int]:
    return [row["epoch"] for row in history]


def _marker(history: list[dict]) -> str | None:
    return "o" if len(history) < 3 else None


def _draw_loss(axis: Any, history: list[dict]) -> None:
    for key, label, colour in (("train_loss", "training", COLOURS[0]), ("test_loss", "test", COLOURS[1])):
        axis.plot(_epochs(history), [row[key] for row in history], color=colour, label=label, marker=_marker(history))
    axis.set_yscale("log")
    ticker = require("matplotlib.ticker")
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    beside(axis)
    title(axis, "loss", "epoch")


def _draw_accuracy(axis: Any, history: list[dict]) -> None:
    values = [100 * row["test_accuracy"] for row in history]
    axis.plot(_epochs(history), values, color=COLOURS[1], marker=_marker(history))
    title(axis, f"test accuracy: {values[-1]:.2f} %", "epoch", "%")


def _name_layers(axis: Any, layers: list[dict]) -> float:
    """Names the rows of a picture of layers; returns the size of the letters."""
    named = spread(len(layers), MOST_ROWS)
    size = min(9.0, 160 / len(named))
    axis.set_yticks(named, [layers[i]["name"] for i in named], fontsize=size)
    axis.set_ylim(len(layers) - 0.4, -0.6)
    axis.set_xlim(0, 100)
    axis.grid(False, axis="y")
    return size


def _draw_layers(axis: Any, history: list[dict]) -> None:
    last = history[-1]
    layers = last["layers"]
    title(axis, f"sparsity of each layer at the end (all: {100 * last['sparsity']:.2f} %)", "zeros, %")
    if not layers:
        axis.set_xlim(0, 100)
        remark(axis, "no sparse layer")
        return
    axis.barh(range(len(layers)), [100 * row["sparsity"] for row in layers], color=COLOURS[0], height=0.8)
    size = _name_layers(axis, layers)
    for y, row in enumerate(layers) if len(layers) <= MOST_ROWS else ():
        text = f"{100 * row['sparsity']:.1f} %  ({row['nnz']:,} kept)"
        inside = row["sparsity"] > 0.5
        x, align, colour = (
            (98 * row["sparsity"], "right", "white") if inside else (100 * row["sparsity"] + 2, "left", INK)
        )
        axis.text(x, y, text, ha=align, va="center", fontsize=0.85 * size, color=colour)


def _draw_masks(axis: Any, history: list[dict]) -> None:
    """Draws figure 8 of the SNR paper: what each criterion alone would prune, and what both agree on."""
    last = history[-1]
    draw_masks(axis, last["layers"])
    title(axis, f"zeros by criterion at the end (both: {100 * last['sparsity']:.2f} %)", "zeros, %")


def draw_masks(axis: Any, layers: list[dict]) -> None:
    """Draws bars for each layer: the sparsity of the magnitude mask, of the SNR mask, and of both together."""
    for i, (key, label) in enumerate(MASKS.items()):
        heights = [y + 0.27 * (i - 1) for y in range(len(layers))]
        axis.barh(heights, [100 * row[key] for row in layers], color=COLOURS[(5, 4, 0)[i]], height=0.27, label=label)
    _name_layers(axis, layers)
    beside(axis)


def _draw_change(axis: Any, history: list[dict]) -> None:
    """Draws how far the pattern has moved from the first one, as the share of today's connections that are new."""
    title(axis, "pattern change since the start", "epoch", "1 - IoU with the first pattern")
    names = [row["name"] for row in history[-1]["layers"]]
    lines = [[0.0, *_along(history, name, lambda row: 1 - row["iou_first"])] for name in names]
    if not any(value for line in lines for value in line):
        remark(axis, "the pattern did not move")
        return
    _draw_lines(axis, [0, *_epochs(history)], names, lines)


def _draw_consecutive(axis: Any, history: list[dict]) -> None:
    _draw_along(axis, history, lambda row: 1 - row["iou_last"])
    title(axis, "change of the mask, last update of each epoch", "epoch", "1 - IoU with the mask before")


def _draw_flips(axis: Any, history: list[dict]) -> None:
    _draw_along(axis, history, lambda row: row["flips"])
    title(axis, "mask flips, last update of each epoch", "epoch", "weights whose mask changed")


def _draw_error(axis: Any, history: list[dict]) -> None:
    _draw_along(axis, history, lambda row: row["error"])
    title(axis, "error of pruning", "epoch", "|w - masked w|² / |w|²")


def _draw_along(axis: Any, history: list[dict], value: Callable[[dict], float]) -> None:
    names = [row["name"] for row in history[-1]["layers"]]
    _draw_lines(axis, _epochs(history), names, [_along(history, name, value) for name in names])


def _along(history: list[dict], name: str, value: Callable[[dict], float]) -> list[float]:
    """Returns a number of a layer, epoch by epoch; 0 where it is not there."""
    found = [next((row for row in epoch["layers"] if row["name"] == name), None) for epoch in history]
    return [0.0 if row is None else value(row) for row in found]


def _draw_lines(axis: Any, epochs: Sequence[int], names: list[str], lines: list[list[float]]) -> None:
    """Draws a line for each layer; of many layers, six are named."""
    many = len(names) > len(COLOURS)
    shades = require("matplotlib").colormaps["viridis"].resampled(len(names))
    named = spread(len(names), 6) if many else range(len(names))
    marker = "o" if len(epochs) < 3 else None
    for i, (name, line) in enumerate(zip(names, lines, strict=True)):
        colour = shades(i) if many else COLOURS[i]
        axis.plot(epochs, line, color=colour, label=name if i in named else None, linewidth=1.4, marker=marker)
    axis.set_ylim(0, None)
    heading = f"layer, 6 of {len(names)}" if many else "layer"
    beside(axis, heading)


def _draw_time(axis: Any, history: list[dict]) -> None:
    values = [1e3 * row["seconds_per_step"] for row in history]
    axis.plot(_epochs(history), values, color=COLOURS[0], marker=_marker(history))
    axis.set_ylim(0, 1.1 * max(values))
    title(axis, f"time per step: {median(values):.2f} ms", "epoch", "ms, mean of the epoch")


def _draw_memory(axis: Any, history: list[dict]) -> None:
    """Draws what weights, indices, gradients and optimizer state take together, beside the dense network's."""
    values = [row["weight_bytes"] / 2**20 for row in history]
    axis.plot(_epochs(history), values, color=COLOURS[0], marker=_marker(history))
    dense = history[-1].get("dense_weight_bytes", 0) / 2**20
    if dense:
        axis.axhline(dense, color=INK, linestyle=":", linewidth=1.2)
        axis.annotate("dense", (1, dense), (0, 3), ("axes fraction", "data"), "offset points", ha="right", fontsize=8)
    axis.set_ylim(0, 1.15 * max(*values, dense))
    title(axis, f"memory of the weights: {values[-1]:.2f} MiB", "epoch", "MiB, with gradients and optimizer")


COSTS = {"seconds_per_step": _draw_time, "weight_bytes": _draw_memory}  # of an epoch

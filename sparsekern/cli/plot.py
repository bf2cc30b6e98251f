"""`sparsekern plot`: pictures of a run folder or of a comparison."""

import argparse
from pathlib import Path
from typing import Any

from . import checkpoint
from .errors import UsageError, require
from .files import read_json, read_lines, write

INK, GRID = "#333333", "#dddddd"
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#8c564b", "#666666", "#b8a000"]


MOST_ROWS = 24  # of layers whose numbers can be read in a picture


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "plot", help="draw a run or a comparison again", description="Draws report.png or figure.png again from DIR."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run or of a comparison")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    folder = arguments.folder
    if (folder / "results.json").is_file():
        path = draw_comparison(folder, read_json(folder / "results.json"))
    elif (folder / checkpoint.CONFIG).is_file():
        history = read_lines(folder / checkpoint.METRICS)
        if not history:
            raise UsageError(f"{folder} has not finished an epoch yet: nothing to draw")
        path = draw_run(folder, checkpoint.read_config(folder), history)
    else:
        raise UsageError(f"{folder} holds neither a run ({checkpoint.CONFIG}) nor a comparison (results.json)")
    print(path)
    return 0


def figure(columns: int, rows: int, width: float = 5.2, height: float = 3.6) -> tuple[Any, list]:
    """An empty figure and its axes, row by row, in the house style."""
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = FigureCanvasAgg(Figure(figsize=(width * columns, height * rows), dpi=120, layout="constrained"))
    axes = list(canvas.figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(INK)
        axis.tick_params(colors=INK, labelsize=9)
        axis.grid(True, color=GRID, linewidth=0.7)
        axis.set_axisbelow(True)
    return canvas.figure, axes


def title(axis: Any, text: str, x: str, y: str = "") -> None:
    axis.set_title(text, loc="left", fontsize=11, color=INK)
    axis.set_xlabel(x, fontsize=9, color=INK)
    axis.set_ylabel(y, fontsize=9, color=INK)


def save(drawing: Any, path: Path) -> Path:
    write(path, lambda file: drawing.savefig(file, format="png"))
    return path


def draw_run(folder: Path, config: dict, history: list[dict]) -> Path:
    """`report.png`: loss, accuracy, sparsity of each layer, and how much of its pattern each epoch replaced."""
    drawing, (loss, accuracy, sparsity, change) = figure(2, 2)
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 3 else None
    loss.plot(epochs, [row["train_loss"] for row in history], color=COLOURS[0], label="training", marker=marker)
    loss.plot(epochs, [row["test_loss"] for row in history], color=COLOURS[1], label="test", marker=marker)
    loss.set_yscale("log")
    ticker = require("matplotlib.ticker")
    loss.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter(ticker.NullFormatter())
    loss.legend(frameon=False, fontsize=9)
    title(loss, "loss", "epoch")
    values = [100 * row["test_accuracy"] for row in history]
    accuracy.plot(epochs, values, color=COLOURS[1], marker=marker)
    title(accuracy, f"test accuracy: {values[-1]:.2f} %", "epoch", "%")
    _draw_layers(sparsity, history[-1])
    _draw_change(change, epochs, history)
    for axis in (loss, accuracy, change):
        axis.xaxis.get_major_locator().set_params(integer=True)
    head = f"{config['method']} · {config['model']} · {config['data']} · seed {config['seed']}"
    drawing.suptitle(head, fontsize=12, color=INK, x=0.01, ha="left")
    return save(drawing, folder / checkpoint.REPORT)


def _draw_layers(axis: Any, last: dict) -> None:
    layers = last["layers"]
    title(axis, f"sparsity of each layer at the end (all: {100 * last['sparsity']:.2f} %)", "zeros, %")
    axis.set_xlim(0, 100)
    if not layers:
        axis.text(0.5, 0.5, "no sparse layer", transform=axis.transAxes, ha="center", va="center", color=INK)
        axis.set_yticks([])
        return
    axis.barh(range(len(layers)), [100 * row["sparsity"] for row in layers], color=COLOURS[0], height=0.8)
    named = _spread(len(layers), MOST_ROWS)
    size = min(9.0, 160 / len(named))
    axis.set_yticks(named, [layers[i]["name"] for i in named], fontsize=size)
    axis.set_ylim(len(layers) - 0.4, -0.6)
    axis.grid(False, axis="y")
    for y, row in enumerate(layers) if len(layers) <= MOST_ROWS else ():
        text = f"{100 * row['sparsity']:.1f} %  ({row['nnz']:,} kept)"
        inside = row["sparsity"] > 0.5
        x, align, colour = (
            (98 * row["sparsity"], "right", "white") if inside else (100 * row["sparsity"] + 2, "left", INK)
        )
        axis.text(x, y, text, ha=align, va="center", fontsize=0.85 * size, color=colour)


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers below `count`, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _draw_change(axis: Any, epochs: list[int], history: list[dict]) -> None:
    """How far the pattern has moved from the first one, in the share of today's connections that are new."""
    title(axis, "pattern change since the start", "epoch", "1 - IoU with the first pattern")
    names = [row["name"] for row in history[-1]["layers"]]
    epochs = [0, *epochs]
    lines = [[0.0, *(_moved(row["layers"], name) for row in history)] for name in names]
    if not any(value for line in lines for value in line):
        axis.text(0.5, 0.5, "the pattern did not move", transform=axis.transAxes, ha="center", va="center", color=INK)
        axis.set_yticks([])
        return
    many = len(names) > len(COLOURS)
    shades = require("matplotlib").colormaps["viridis"].resampled(len(names))
    named = _spread(len(names), 6) if many else range(len(names))
    for i, (name, line) in enumerate(zip(names, lines, strict=True)):
        colour = shades(i) if many else COLOURS[i]
        axis.plot(epochs, line, color=colour, label=name if i in named else None, linewidth=1.4)
    axis.set_ylim(0, None)
    heading = f"layer, 6 of {len(names)}" if many else "layer"
    axis.legend(frameon=False, fontsize=8, ncols=1 + len(named) // 6, title=heading, title_fontsize=8)


def _moved(layers: list[dict], name: str) -> float:
    return next((1 - row["iou_first"] for row in layers if row["name"] == name), 0.0)


def draw_comparison(folder: Path, results: dict) -> Path:
    """`figure.png`: accuracy against sparsity, a line a method, bars one standard deviation over the seeds."""
    drawing, (axis,) = figure(1, 1, width=7.2, height=4.6)
    rows = [row for row in results["table"] if row["accuracy_mean"] is not None]
    sparsities = sorted({row["sparsity"] for row in rows if row["method"] != "dense"})
    keys = list(dict.fromkeys((row["method"], row["backend"]) for row in rows if row["method"] != "dense"))
    methods = list(dict.fromkeys(method for method, _ in keys))
    several = len({backend for _, backend in keys}) > 1
    place = {s: i for i, s in enumerate(sparsities)}
    for k, (method, backend) in enumerate(keys):
        own = sorted((row for row in rows if (row["method"], row["backend"]) == (method, backend)), key=_sparsity)
        shift = 0.5 * (k - (len(keys) - 1) / 2) / max(1, len(keys))  # so that error bars do not hide each other
        axis.errorbar(
            [place[row["sparsity"]] + shift for row in own],
            [100 * row["accuracy_mean"] for row in own],
            yerr=None if own[0]["accuracy_std"] is None else [100 * (row["accuracy_std"] or 0.0) for row in own],
            color=COLOURS[methods.index(method) % len(COLOURS)],
            linestyle="--" if backend == "masked" else "-",
            marker="s" if backend == "masked" else "o",
            markersize=5,
            capsize=3,
            linewidth=1.4,
            label=(f"{method} ({backend})" if several else method)
            + (f"  {100 * own[0]['accuracy_mean']:.2f}" if len(sparsities) == 1 else ""),
        )
    for row in rows:
        if row["method"] == "dense":
            mean, std = 100 * row["accuracy_mean"], 100 * (row["accuracy_std"] or 0.0)
            axis.axhline(mean, color=INK, linewidth=1.2, linestyle=":", label=f"dense  {mean:.2f}")
            axis.axhspan(mean - std, mean + std, color=INK, alpha=0.08, linewidth=0)
    axis.set_xticks(range(len(sparsities)), [f"{100 * s:g} %" for s in sparsities])
    axis.set_xlim(-0.6, max(0, len(sparsities) - 1) + 0.6)
    settings = results["settings"]
    seeds = len(results["seeds"])
    title(
        axis,
        f"{settings['model']} on {settings['data']}, {settings['epochs']} epochs, {seeds} seed{'s' * (seeds != 1)}",
        "sparsity",
        "test accuracy, %",
    )
    axis.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save(drawing, folder / "figure.png")


def _sparsity(row: dict) -> float:
    return row["sparsity"]

"""The look of every picture."""

from pathlib import Path
from typing import Any

from ...errors import require
from ..files import write

INK, GRID = "#333333", "#dddddd"
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#8c564b", "#666666", "#b8a000"]


def figure(columns: int, rows: int, width: float = 5.2, height: float = 3.6, **options: Any) -> tuple[Any, list]:
    """Returns an empty figure and its axes, row by row, in the style of every picture.

    Args:
        options: of `Figure.subplots`.
    """
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = FigureCanvasAgg(Figure(figsize=(width * columns, height * rows), dpi=120, layout="constrained"))
    axes = list(canvas.figure.subplots(rows, columns, squeeze=False, **options).flat)
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


def beside(axis: Any, heading: str | None = None) -> None:
    """Puts the legend to the right of the axes, where it covers nothing."""
    where = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    legend = axis.legend(frameon=False, fontsize=8, labelcolor=INK, title=heading, title_fontsize=8, **where)
    legend.get_title().set_color(INK)


def save(drawing: Any, path: Path) -> Path:
    write(path, lambda file: drawing.savefig(file, format="png"))
    return path


def cut(axis: Any, means: list[tuple[str, float]], depth: float, along: str = "y") -> list[str]:
    """Ends the axis `along` x or y below what is not `depth` points worse than the best, as that would flatten all
    else; returns what then lies outside, with its number."""
    best = max(mean for _, mean in means)
    inside = [mean for _, mean in means if mean > best - depth]
    if len(inside) < len(means):
        margin = 0.15 * (best - min(inside)) + 0.3
        getattr(axis, f"set_{along}lim")(min(inside) - margin, best + margin)
    return [f"{name} ({mean:.1f})" for name, mean in means if mean <= best - depth]


def spread(count: int, most: int) -> list[int]:
    """Returns up to `most` of the numbers below `count`, evenly spaced, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def remark(axis: Any, text: str) -> None:
    """Writes a sentence where there is nothing to draw."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=INK)
    axis.set_yticks([])

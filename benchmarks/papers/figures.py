"""The pictures of the experiments."""

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.papers.experiment import Curves, Experiment
from sparsekern.training.figures import COLOURS, INK, figure, save, title

DEEPEST = 12  # points below the best accuracy of a panel: what is worse would flatten all else
STYLES = ("-", "--", ":", "-.")


def draw(path: Path, experiment: Experiment, runs: list[dict]) -> None:
    """A panel for each group, accuracy over what was varied, and one for each of the experiment's curves. No picture
    if there is none: a single number is none."""
    varied = {run["group"]: {other["at"] for other in runs if other["group"] == run["group"]} - {None} for run in runs}
    groups = [group for group, axis in experiment.axis.items() if axis and len(varied.get(group, ())) > 1]
    curves = [c for c in experiment.curves if select(runs, c)]
    colours = {what: COLOURS[i % len(COLOURS)] for i, what in enumerate(unique(run["what"] for run in runs))}
    panels: list[Callable[[Any], None]] = []
    for group in groups:
        members = [run for run in runs if run["group"] == group]
        panels.append(lambda axis, m=members, g=group: draw_group(axis, m, experiment.axis[g], colours))
    panels += [lambda axis, c=c: draw_curves(axis, select(runs, c), c, colours) for c in curves]
    if not panels:
        return
    columns = min(2, len(panels))
    drawing, axes = figure(columns, -(-len(panels) // columns), width=6.4, height=4.2)
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    save(drawing, path)


def unique(values: Any) -> list:
    return list(dict.fromkeys(values))


def select(runs: list[dict], curves: Curves) -> list[dict]:
    return [run for run in runs if run["group"] == curves.group and any(fnmatch(run["what"], w) for w in curves.whats)]


def draw_group(axis: Any, runs: list[dict], varied: str, colours: dict[str, str]) -> None:
    """Accuracy over the number that was varied, bars one standard deviation over the seeds; a level for what has none,
    and where the number is the sparsity, a point at the one it came to. What is far worse is named below."""
    by_sparsity = varied == "sparsity"
    cells_of: dict[tuple, list[float]] = {}
    for run in runs:
        cells_of.setdefault((run["what"], run["at"]), []).append(100 * run["test_accuracy"])
    best = max(map(fmean, cells_of.values()))
    drawn: list[tuple[str, float]] = []
    for what in unique(run["what"] for run in runs):
        own = [run for run in runs if run["what"] == what]
        ats = sorted({run["at"] for run in own if run["at"] is not None})
        cells = [[run for run in own if run["at"] == at] for at in ats or [None]]
        accuracy = [[100 * run["test_accuracy"] for run in cell] for cell in cells]
        means = [fmean(values) for values in accuracy]
        names = [f"{what} {100 * at:g} %" if by_sparsity else f"{what} {at:g}" for at in ats] or [what]
        drawn += zip(names, means, strict=True)
        if not ats and not (by_sparsity and own[0]["sparsity"] > 0):
            axis.axhline(means[0], color=INK if what == "dense" else colours[what], linestyle="--", label=what)
            continue
        x = [100 * fmean(run["sparsity"] for run in cell) for cell in cells] if by_sparsity else ats
        bars = [stdev(values) if len(values) > 1 else 0.0 for values in accuracy]
        x, means, bars = _inside(best, x, means, bars)
        style = {"color": colours[what], "markersize": 5, "capsize": 3, "linewidth": 1.4}
        axis.errorbar(x, means, yerr=bars if any(bars) else None, label=what, marker="o" if ats else "D", **style)
    scale = 100 if by_sparsity else 1
    ticks = sorted({scale * run["at"] for run in runs if run["at"] is not None})
    if not by_sparsity:
        axis.set_xscale("log", base=2)
        axis.minorticks_off()
    emergent = by_sparsity and any(run["at"] is None and run["sparsity"] > 0 for run in runs)
    if not emergent:
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, best - DEEPEST), high)
    off = [f"{name} ({mean:.1f})" for name, mean in drawn if mean <= best - DEEPEST]
    first = runs[0]
    levels = unique(f"{100 * run['sparsity']:.4g} % sparse" for run in runs)
    title(
        axis,
        ", ".join([f"{first['model']} on {first['data']}", f"{first['epochs']} epochs", *levels * (len(levels) == 1)]),
        varied + ", %" * by_sparsity + (f"\nfar below: {', '.join(off)}" if off else ""),
        "test accuracy, %",
    )
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _inside(best: float, *columns: list[float]) -> tuple[list[float], ...]:
    """Leaves out what is far below the best; the second column are the means."""
    kept = [cells for cells in zip(*columns, strict=True) if cells[1] > best - DEEPEST]
    return tuple([cells[i] for cells in kept] for i in range(len(columns)))


def draw_curves(axis: Any, runs: list[dict], curves: Curves, colours: dict[str, str]) -> None:
    """A number of the runs over the epochs, the mean of the seeds."""
    for what in unique(run["what"] for run in runs):
        own = [run for run in runs if run["what"] == what]
        for style, at in zip(STYLES, unique(run["at"] for run in own), strict=False):
            members = [run[curves.key] for run in own if run["at"] == at]
            line = [100 * fmean(values) for values in zip(*members, strict=True)]
            name = what if at is None else f"{what} {100 * at:g} %"
            label = f"{name}  {line[-1]:.2f}" if curves.key == "accuracy" else name
            colour = INK if what == "dense" else colours[what]
            axis.plot(range(1, len(line) + 1), line, color=colour, linestyle=style, label=label, linewidth=1.4)
    axis.xaxis.get_major_locator().set_params(integer=True)
    title(axis, curves.title, "epoch", "%")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))

"""What the committed results hold of a method: a table, and the accuracy epoch by epoch as a picture."""

import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from sparsekern.bench.markdown import table
from sparsekern.training.figures.style import COLOURS, GRID, INK, beside, figure, title

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FROM_METHODS = "../../benchmarks/results"  # from the page of a method


class Group(NamedTuple):
    """Runs that compare with each other: the same network, data and recipe."""

    folder: str
    model: str
    data: str
    epochs: int | None  # None: as many as take as much time as the dense network's

    @property
    def trained(self) -> str:
        epochs = "as much time as dense" if self.epochs is None else f"{self.epochs} epochs"
        return f"{self.model}, {self.data}, {epochs}"


Runs = dict[tuple[str, float | None], list[dict[str, Any]]]  # by method and the sparsity asked for


@cache
def groups() -> dict[Group, Runs]:
    """Returns all committed runs of methods with their own options, in groups."""
    found: dict[Group, Runs] = defaultdict(lambda: defaultdict(list))
    for path in sorted(RESULTS.rglob("results.json")):
        for run in json.loads(path.read_text()).get("runs", []):
            method, at = run.get("method", run.get("what")), run.get("sparsity_target", run.get("at"))
            asked = at is None or 0 <= at < 1  # or else it is something else that was varied
            if run.get("backend") == "masked" or not asked or not run.keys() >= {"test_accuracy", *Group._fields[1:]}:
                continue
            folder = path.parent.relative_to(RESULTS).as_posix()
            epochs = None if run.get("group") == "time" else run["epochs"]
            found[Group(folder, run["model"], run["data"], epochs)][method, at or None].append(run)
    for group, runs in found.items():
        if group.epochs is None:  # the dense network is that of as many steps
            alike = (own for other, own in found.items() if other[:3] == group[:3] and ("dense", None) in own)
            runs["dense", None] = next(alike)["dense", None]
    return found


def of(method: str) -> str:
    """Returns what was measured of a method as Markdown."""
    lines = []
    for group, runs in groups().items():
        dense = next((own for (name, _), own in runs.items() if name == "dense"), [])
        for (name, _), own in sorted(runs.items(), key=lambda item: item[0][1] or 0):
            if name == method:
                page = "table.md" if (RESULTS / group.folder / "table.md").exists() else "results.json"
                where = f"[{group.folder}]({FROM_METHODS}/{group.folder}/{page})"
                lines.append([where, group.trained, *_cells(own, dense)])
    if not lines:
        return "No committed result has it yet; [what there is](../results.md)."
    head = ["results", "trained", "sparsity", "seeds", "accuracy, %", "dense, %", "step", "memory"]
    note = (
        "Accuracy on the test set, of text that of the next byte. Divided by those of the dense network of the same "
        "runs: *step*, its processor time, the mean over the run of the seed that took least; *memory* of weights, "
        "indices, gradients and optimizer state, at its most."
    )
    return "\n\n".join([table(head, lines).replace("---:", "---", 1), note, *_curves(method)])


def _cells(runs: list[dict[str, Any]], dense: list[dict[str, Any]]) -> list[str]:
    def ratio(of: Callable[[dict[str, Any]], float | None]) -> str:
        ours, theirs = ([value for run in part if (value := of(run))] for part in (runs, dense))
        return f"{min(ours) / min(theirs):.2f}" if ours and theirs else ""

    sparsity = f"{100 * fmean(run['sparsity'] for run in runs):.3g} %"
    accuracies = [_percent(run["test_accuracy"] for run in part) for part in (runs, dense)]
    return [sparsity, str(len(runs)), *accuracies, ratio(_seconds), ratio(lambda run: run.get("peak_weight_bytes"))]


def _seconds(run: dict[str, Any]) -> float | None:
    """Returns the processor time of a step, changes of pattern included; other work on the machine counts in the time
    of a clock."""
    epochs = run.get("cpu_seconds")
    return fmean(epochs) if epochs else run.get("cpu_seconds_per_step")


def _percent(values: Iterable[float]) -> str:
    found = [100 * value for value in values]
    spread = f" ± {stdev(found):.2f}" if len(found) > 1 else ""
    return f"{fmean(found):.2f}{spread}" if found else ""


def _curves(method: str) -> Iterator[str]:
    """Draws the test accuracy after every epoch, a panel for each group that has it."""
    panels = [
        (group, runs)
        for group, runs in groups().items()
        if any(name == method and "accuracy" in own[0] for (name, _), own in runs.items())
    ]
    if panels:
        drawing, axes = figure(1, len(panels), width=7, height=2.8)
        for axis, (group, runs) in zip(axes, panels, strict=True):
            _draw(axis, method, group, runs)
        yield inline(drawing, f"Test accuracy of {method} after every epoch")


def _draw(axis: Any, method: str, group: Group, runs: Runs) -> None:
    chosen = [key for key in runs if key[0] in (method, "dense")]
    shades = iter(COLOURS)
    for name, at in sorted(chosen, key=lambda key: (key[0] == "dense", key[1] or 0)):
        means = [100 * fmean(values) for values in zip(*(run["accuracy"] for run in runs[name, at]), strict=True)]
        plain = name == "dense" and method != "dense"
        label = f"{name}, {100 * fmean(run['sparsity'] for run in runs[name, at]):.3g} %"
        colour, style = (INK, ":") if plain else (next(shades), "-")
        axis.plot(range(1, len(means) + 1), means, label=label, color=colour, linestyle=style, linewidth=1.6)
    axis.xaxis.get_major_locator().set_params(integer=True)
    title(axis, f"{group.folder}: {group.trained}", "epoch", "test accuracy, %")
    beside(axis)


def inline(drawing: Any, label: str) -> str:
    """Returns a figure of matplotlib as SVG within a page; lines and letters take the colour of the page's text."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        drawing.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor").replace(GRID, "#88888855")
    svg = re.sub(r"\n\s*", "\n", svg).strip()
    return f'<figure role="img" aria-label="{label}">\n{svg}\n</figure>'

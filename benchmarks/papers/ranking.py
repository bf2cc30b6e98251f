"""Methods of one sparsity beside each other: accuracy, time, memory."""

from pathlib import Path
from statistics import fmean, stdev

from sparsekern.training.figures import draw_comparison

LAST = 3  # epochs that the time at the end is taken from


def costs(runs: list[dict]) -> dict[str, float]:
    """Returns the costs of a method from its runs, seeds of one setting.

    `milliseconds` is the processor's time per step over the whole run, `end` the least of an epoch near its end, both
    of the seed that took least; `bytes` those of weights, indices, gradients and optimizer state at their peak.
    """
    epochs = [run["cpu_seconds"] for run in runs]
    return {
        "milliseconds": 1e3 * min(fmean(own) for own in epochs),
        "end": 1e3 * min(min(own[-LAST:]) for own in epochs),
        "bytes": max(run["peak_weight_bytes"] for run in runs),
    }


def tables(runs: list[dict]) -> list[str]:
    """Markdown lines: what has no sparsity given, then a table for each sparsity, the best first; who lost a layer."""
    dense = [run for run in runs if run["what"] == "dense"]
    scale = costs(dense) if dense else None
    seeds = len({run["seed"] for run in runs})
    lines = []
    ats = sorted({run["at"] for run in runs}, key=lambda at: at or 0.0)
    for at in ats:
        heading = "sparsity not given" if at is None else f"{100 * at:g} %"
        lines += [
            "",
            f"| {heading} | test accuracy | weights | sparsity | ms per step | at the end | weights' memory, KiB |",
        ]
        lines += ["|---|---:|---:|---:|---:|---:|---:|"]
        groups: dict[str, list[dict]] = {}
        for run in runs:
            if run["at"] == at:
                groups.setdefault(run["what"], []).append(run)
        order = sorted(groups, key=lambda what: -fmean(run["test_accuracy"] for run in groups[what]))
        lines += [_row(what, groups[what], scale, seeds) for what in order]
    return [*lines[1:], "", collapsed(runs)]


def collapsed(runs: list[dict]) -> str:
    """Says which methods emptied a layer."""
    empty = [run for run in runs if run["at"] and any(layer["sparsity"] == 1 for layer in run["layers"])]
    named = dict.fromkeys(f"{run['what']} at {100 * run['at']:g} %" for run in empty)
    return f"A layer lost all of its weights: {', '.join(named) or 'nowhere'}."


def draw(out: Path, runs: list[dict]) -> Path:
    """`figure.png`: accuracy against sparsity, a line a method."""
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        groups.setdefault((run["what"], run["at"]), []).append(run)
    table = []
    for (what, at), own in groups.items():
        accuracy = [run["test_accuracy"] for run in own]
        sparsity = round(fmean(run["sparsity"] for run in own), 3) if at is None else at
        mean, std = fmean(accuracy), stdev(accuracy) if len(own) > 1 else None
        row = {"method": what, "backend": "auto", "sparsity": sparsity, "accuracy_mean": mean, "accuracy_std": std}
        table.append(row)
    seeds = sorted({run["seed"] for run in runs})
    return draw_comparison(out, {"table": table, "settings": runs[0], "seeds": seeds})


def _row(what: str, runs: list[dict], scale: dict[str, float] | None, seeds: int) -> str:
    accuracy = [100 * run["test_accuracy"] for run in runs]
    text = f"{fmean(accuracy):.2f}" + (f" ± {stdev(accuracy):.2f}" if len(runs) > 1 else "")
    text += f" ({len(runs)} seed{'s' * (len(runs) != 1)})" if len(runs) != seeds else ""
    own = costs(runs)
    shown = {
        "milliseconds": f"{own['milliseconds']:.2f}",
        "end": f"{own['end']:.2f}",
        "bytes": f"{own['bytes'] / 1024:,.0f}",
    }
    cells = [text + (f" ({own[key] / scale[key]:.2f})" if scale else "") for key, text in shown.items()]
    nnz, sparsity = (fmean(run[key] for run in runs) for key in ("nnz", "sparsity"))
    return " | ".join([f"| {what}", text, f"{nnz:,.0f}", f"{100 * sparsity:.1f} %", *cells]) + " |"

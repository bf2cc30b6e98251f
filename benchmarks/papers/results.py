"""The results of an experiment as a file of numbers, a table and a picture."""

from collections.abc import Iterable
from math import prod
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.papers import figures, measure, orderings, ranking
from benchmarks.papers.experiment import Experiment, Trial
from sparsekern.training import run_folder
from sparsekern.training.files import folder as make_folder
from sparsekern.training.files import read_lines, write_json, write_text

SUMMARY = ("model", "data", "test_accuracy", "test_loss", "sparsity", "nnz", "prunable", "epochs", "seconds_per_step")
MORE = ("steps", "peak_memory_bytes", "test_bits_per_byte")
NAMED = 12  # of the runs that lack
LAYER = ("name", "sparsity", "magnitude_sparsity", "snr_sparsity")


def write(out: Path, experiment: Experiment, folders: dict[Trial, Path], note: str = "") -> str:
    """Writes `results.json`, `table.md` and `figure.png` of the runs that are finished; returns the table."""
    times = measure.read(out / "times.json")
    found = [row(run, path, times.get(run.cell)) for run, path in folders.items() if run_folder.finished(path)]
    missing = [run.name for run, path in folders.items() if not run_folder.finished(path)]
    if any(run["data"] == "imagefolder" for run in found):
        note = "Images from a folder, not CIFAR-10's own files: accuracies compare with each other only. " + note
    results = {
        "source": experiment.source,
        "note": note.strip(),
        "hours": sum(run["train_seconds"] for run in found) / 3600,
        "common": experiment.common | _as_trained(experiment.common, found),
        "missing": missing,
        "runs": found,
    }
    if experiment.claims:
        results["orderings"] = orderings.judge_all(experiment.claims, found, experiment.samples)
    make_folder(out)
    write_json(out / "results.json", results)
    text = render(experiment, results)
    write_text(out / "table.md", text)
    draw(out, experiment, found)
    return text


def draw(out: Path, experiment: Experiment, runs: list[dict]) -> None:
    """Writes `figure.png`, if there are runs."""
    if runs and experiment.draw is not None:
        experiment.draw(out, runs)
    elif runs and experiment.claims:
        ranking.draw(out, runs)
    elif runs:
        figures.draw(out / "figure.png", experiment, runs)


def _as_trained(common: dict, found: list[dict]) -> dict:
    """The epochs of the runs, which the command line may have chosen, where all have as many."""
    epochs = unique(run["epochs"] for run in found)
    return {"epochs": epochs[0]} if "epochs" in common and len(epochs) == 1 else {}


def row(run: Trial, path: Path, milliseconds: float | None = None) -> dict:
    """A run: what it was, what it reached, and how it went epoch by epoch; `milliseconds` of a step, if measured."""
    summary, history = run_folder.read_summary(path), read_lines(path / run_folder.METRICS)
    return {
        "name": run.name,
        "group": run.group,
        "what": run.what,
        "at": run.at,
        "seed": run.seed,
        **{key: summary[key] for key in SUMMARY},
        "train_seconds": summary["train_seconds"],
        "threads": summary["threads"],
        "milliseconds": milliseconds,
        "peak_weight_bytes": summary.get("peak_weight_bytes"),
        **{key: summary[key] for key in MORE if key in summary},
        "cpu_seconds": [epoch["cpu_seconds_per_step"] for epoch in history if "cpu_seconds_per_step" in epoch],
        "accuracy": [epoch["test_accuracy"] for epoch in history],
        "sparsities": [epoch["sparsity"] for epoch in history],
        "change": [change(epoch["layers"]) for epoch in history],
        "layers": [{key: layer[key] for key in LAYER if key in layer} for layer in history[-1]["layers"]],
    }


def change(layers: list[dict]) -> float:
    """1 - IoU of the last two patterns, layers weighted by their size."""
    sizes = [prod(layer["shape"]) for layer in layers]
    changes = [size * (1 - layer["iou_last"]) for layer, size in zip(layers, sizes, strict=True)]
    return sum(changes) / max(1, sum(sizes))


def unique(values: Iterable) -> list:
    return list(dict.fromkeys(values))


def render(experiment: Experiment, results: dict) -> str:
    """The results as Markdown: a table per group, a row per method, a column per number that was varied."""
    runs = results["runs"]
    seeds = sorted(unique(run["seed"] for run in runs))
    means = "mean ± standard deviation over the seeds " if len(seeds) > 1 else "seed "
    what = "Test accuracy in %, " if experiment.tables is None else ""
    spread = f"{what}{means}{', '.join(map(str, seeds))}."
    lines = [f"# {experiment.source}", "", spread[0].upper() + spread[1:]]
    if results["note"]:
        lines += ["", results["note"]]
    if experiment.tables is not None and runs:
        lines += ["", *experiment.tables(runs)]
    if experiment.claims and runs:
        lines += [
            "",
            *ranking.tables(runs),
            "",
            "## The papers' orderings",
            "",
            *orderings.render(results["orderings"]),
        ]
    for group in [] if experiment.claims or experiment.tables else unique(run["group"] for run in runs):
        members = [run for run in runs if run["group"] == group]
        lines += ["", *table(members, experiment.axis[group])]
    threads = ", ".join(str(count) for count in unique(run["threads"] for run in runs))
    lines += ["", experiment.notes, ""]
    lines += [f"{len(runs)} runs, {results['hours']:.1f} hours of training with {threads or 'no'} threads each."]
    if missing := results["missing"]:
        more = f" and {len(missing) - NAMED} more, see results.json" if len(missing) > NAMED else ""
        lines += ["", f"Not yet trained ({len(missing)}): {', '.join(missing[:NAMED])}{more}."]
    return "\n".join(lines) + "\n"


def table(runs: list[dict], axis: str) -> list[str]:
    """Markdown lines; what has no number of the axis stands in the column `as it is`, with the zeros it came to."""
    columns = sorted(unique(run["at"] for run in runs if run["at"] is not None))
    kept = [unique(run["nnz"] for run in runs if run["at"] == at) for at in columns]
    first = runs[0]
    data = f"{first['model']} on {first['data']}, {first['epochs']} epochs" + (f"; {axis}" if axis else "")
    percent = axis in ("sparsity", "")
    heads = [f"{100 * at:g} %" if percent else f"{at:g}" for at in columns]
    lines = ["| " + " | ".join([data, "as it is", *heads]) + " |"]
    lines += ["|---|" + "---:|" * (1 + len(columns))]
    most = max(len(unique(run["seed"] for run in runs)), 1)
    for what in unique(run["what"] for run in runs):
        own = [[run for run in runs if run["what"] == what and run["at"] == at] for at in [None, *columns]]
        cells = [cell(members, most, axis == "sparsity") for members in own]
        lines.append("| " + " | ".join([what, *cells]) + " |")
    if all(len(counts) == 1 for counts in kept):
        lines.append("| " + " | ".join(["weights", "", *(f"{counts[0]:,}" for counts in kept)]) + " |")
    return lines


def cell(runs: list[dict], seeds: int, emergent: bool) -> str:
    """Mean and deviation; the sparsity, where it is an outcome; how many seeds, if not all."""
    if not runs:
        return ""
    accuracy = [100 * run["test_accuracy"] for run in runs]
    text = f"{fmean(accuracy):.2f}" + (f" ± {stdev(accuracy):.2f}" if len(runs) > 1 else "")
    if emergent and runs[0]["at"] is None and runs[0]["sparsity"] > 0:
        zeros = [100 * run["sparsity"] for run in runs]
        text += f" at {fmean(zeros):.1f} %" + (f" ± {stdev(zeros):.1f}" if len(runs) > 1 and stdev(zeros) else "")
    return text + (f" ({len(runs)} seed{'s' * (len(runs) != 1)})" if len(runs) != seeds else "")

"""The results of a comparison: means, deviations, ranking, and the difference from the masked twin, paired by seed."""

from pathlib import Path
from statistics import fmean, stdev

from ..errors import UsageError
from ..settings import fraction
from ..text import columns, counted
from ..training import figures, files, run_folder
from ..training.schema import count, finite

FILES = ["results.json", "table.md", "figure.png"]
# What the picture is drawn from.
SHAPE = {
    "settings": {"model": str, "data": str, "epochs": count},
    "seeds": list,
    "table": [
        {
            "method": str,
            "backend": str,
            "sparsity": fraction,
            "accuracy_mean": finite,
            "accuracy_std": (finite, type(None)),
        }
    ],
}


def check_free(out: Path) -> None:
    """Raises a `UsageError` if a comparison would replace files in a folder that are of none."""
    found = [name for name in FILES if (out / name).exists()]
    try:
        known = bool(found) and bool(files.read_json(out / FILES[0], SHAPE))
    except UsageError:
        known = False
    if found and not known:
        raise UsageError(f"{out} holds {found[0]}, which is of no comparison; choose another --out")


def write(out: Path, settings: dict, grid: dict, folders: list[Path], failed: list[dict]) -> str:
    """Writes `results.json`, `table.md` and `figure.png`; returns the table for a terminal."""
    runs = [{"run": f.name, **run_folder.read_summary(f)} for f in folders if run_folder.finished(f)]
    results = {
        "settings": settings,
        **grid,
        "table": tabulate(runs),
        "paired": pair(runs),
        "failed": failed,
        "runs": runs,
    }
    files.write_json(out / "results.json", results)
    files.write_text(out / "table.md", render(results))
    if runs:
        figures.draw_comparison(out, results)
    else:
        (out / FILES[2]).unlink(missing_ok=True)  # of earlier runs
    return told(results)


def _spread(values: list[float]) -> float | None:
    """Standard deviation of a sample (n - 1); None of a single value."""
    return stdev(values) if len(values) > 1 else None


def _sparsity(target: float | None, runs: list[dict]) -> float:
    """The sparsity that was asked for; where it emerges, the mean of what it came to."""
    return round(fmean(run["sparsity"] for run in runs), 3) if target is None else target


def tabulate(runs: list[dict]) -> list[dict]:
    """A row per method, sparsity and backend, best accuracy first within a sparsity; `rank` is among its backend."""
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        groups.setdefault((run["sparsity_target"], run["backend"], run["method"]), []).append(run)
    rows = []
    for (target, backend, method), members in groups.items():
        accuracy = [run["test_accuracy"] for run in members]
        rows.append(
            {
                "method": method,
                "sparsity": _sparsity(target, members),
                "backend": backend,
                "seeds": sorted(run["seed"] for run in members),
                "accuracy_mean": fmean(accuracy),
                "accuracy_std": _spread(accuracy),
                "loss_mean": fmean(run["test_loss"] for run in members),
                "loss_std": _spread([run["test_loss"] for run in members]),
                "nnz": round(fmean(run["nnz"] for run in members)),
                "seconds_per_step": fmean(run["seconds_per_step"] for run in members),
                "train_seconds": fmean(run["train_seconds"] for run in members),
                "peak_memory_bytes": max(run["peak_memory_bytes"] for run in members),
                "peak_weight_bytes": max(run.get("peak_weight_bytes", 0) for run in members),
            }
        )
    rows.sort(key=lambda row: (row["sparsity"], -row["accuracy_mean"], row["method"], row["backend"]))
    ranks: dict[tuple, int] = {}
    for row in rows:
        key = (row["sparsity"], row["backend"])
        ranks[key] = row["rank"] = ranks.get(key, 0) + 1
    return rows


def pair(runs: list[dict]) -> list[dict]:
    """Accuracy minus that of the masked twin with the same seed, for each method, sparsity and other backend."""
    twins = {(r["method"], r["sparsity_target"], r["seed"]): r for r in runs if r["backend"] == "masked"}
    groups: dict[tuple, list[tuple[dict, dict]]] = {}
    for run in runs:
        twin = twins.get((run["method"], run["sparsity_target"], run["seed"]))
        if twin is not None and run["backend"] != "masked":
            groups.setdefault((run["method"], run["sparsity_target"], run["backend"]), []).append((run, twin))
    rows = []
    for (method, target, backend), pairs in groups.items():
        values = [run["test_accuracy"] - twin["test_accuracy"] for run, twin in pairs]
        rows.append(
            {
                "method": method,
                "sparsity": _sparsity(target, [run for run, _ in pairs]),
                "backend": backend,
                "differences": values,
                "mean": fmean(values),
                "std": _spread(values),
            }
        )
    return rows


def _percent(mean: float, spread: float | None, sign: str = "") -> str:
    return f"{100 * mean:{sign}.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


HEAD = [
    "sparsity, %",
    "rank",
    "method",
    "backend",
    "seeds",
    "test accuracy, %",
    "test loss",
    "weights",
    "ms per step",
    "of dense",
    "training, s",
    "peak memory, MiB",
    "of the weights, KiB",
]
PAIRED = ["sparsity, %", "method", "backend", "mean difference", "by seed"]
TWINS = "Test accuracy minus that of the masked dense twin with the same seed, in points:"
TEXTS = {"method", "backend", "by seed"}  # columns without numbers


def _lines(results: dict) -> list[list[str]]:
    """A line of cells for every row of the table, below `HEAD`."""
    dense = next((row["seconds_per_step"] for row in results["table"] if row["method"] == "dense"), None)
    return [
        [
            f"{100 * row['sparsity']:g}",
            "" if row["method"] == "dense" else str(row["rank"]),
            row["method"],
            row["backend"],
            str(len(row["seeds"])),
            _percent(row["accuracy_mean"], row["accuracy_std"]),
            f"{row['loss_mean']:.4f}" + ("" if row["loss_std"] is None else f" ± {row['loss_std']:.4f}"),
            f"{row['nnz']:,}",
            f"{1e3 * row['seconds_per_step']:.2f}",
            "" if dense is None else f"{row['seconds_per_step'] / dense:.2f}",
            f"{row['train_seconds']:.1f}",
            f"{row['peak_memory_bytes'] / 2**20:.0f}",
            f"{row['peak_weight_bytes'] / 2**10:,.0f}",
        ]
        for row in results["table"]
    ]


def _paired(results: dict) -> list[list[str]]:
    """A line of cells for every difference, below `PAIRED`."""
    return [
        [
            f"{100 * row['sparsity']:g}",
            row["method"],
            row["backend"],
            _percent(row["mean"], row["std"], "+"),
            ", ".join(f"{100 * d:+.2f}" for d in row["differences"]),
        ]
        for row in results["paired"]
    ]


def _markdown(head: list[str], lines: list[list[str]]) -> list[str]:
    sides = ["---" if name in TEXTS else "---:" for name in head]
    return [f"| {' | '.join(head)} |", f"|{'|'.join(sides)}|", *(f"| {' | '.join(line)} |" for line in lines)]


def _aligned(head: list[str], lines: list[list[str]]) -> str:
    return columns([head, *lines], right={i for i, name in enumerate(head) if name not in TEXTS})


def render(results: dict) -> str:
    """The results as Markdown."""
    s = results["settings"]
    lines = [
        f"# {s['model']} on {s['data']}, {counted(s['epochs'], 'epoch')}",
        "",
        f"{s['optimizer']}, learning rate {s['lr']:g} ({s['schedule']}), weight decay {s['weight_decay']:g}, batch "
        f"{s['batch_size']}, {s['threads']} threads, {counted(s['jobs'], 'run')} at a time, "
        f"seeds {', '.join(map(str, results['seeds']))}; mean ± standard deviation over the seeds."
        + (f" {s['note']}" if s.get("note") else ""),
        "",
        *_markdown(HEAD, _lines(results)),
    ]
    if results["paired"]:
        lines += ["", TWINS, "", *_markdown(PAIRED, _paired(results))]
    if results["failed"]:
        lines += ["", "Failed runs:", ""]
        lines += [f"- {f['run']}: status {f['status']}, {f['error']} ({f['log']})" for f in results["failed"]]
    return "\n".join(lines) + "\n"


def told(results: dict) -> str:
    """The same tables, aligned for a terminal."""
    tables = [_aligned(HEAD, _lines(results))]
    if results["paired"]:
        tables += [TWINS, _aligned(PAIRED, _paired(results))]
    return "\n\n".join(tables) + "\n"

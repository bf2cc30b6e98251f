"""The picture of a comparison."""

from pathlib import Path

from .style import COLOURS, INK, figure, save, title


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

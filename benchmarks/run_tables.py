"""Tables of training runs: accuracy, time, memory and traffic of methods."""

from collections.abc import Sequence
from functools import partial
from statistics import fmean, stdev

from benchmarks.lookup import Rows, accuracy, number, percents
from benchmarks.papers import losses, ranking
from sparsekern.bench import markdown

RANKS = (64, 1024)
SPARSITIES = (0.9, 0.98)
# The methods of `results/paper-baselines`, by the question that docs/which-method.md asks.
GROUPS = {
    "methods-dynamic": ("rigl", "set", "gse_grabo", "gse_graest", "gse_synflow", "gse_random", "dsr", "deepr"),
    "methods-before": (
        *("snip", "snip_mb", "iter_snip", "force", "grasp", "grasp_abs", "grasp_magnitude"),
        *("synflow", "prospr", "prospr_first_order", "magnitude_init", "random"),
    ),
    "methods-pruning": ("granet", "gmp", "magnitude_after", "oneshot_ft", "lottery", "rewind"),
    "methods-dense": ("dnw", "dpf", "dpf_layerwise", "snfs", "str", "optg"),
    "methods-channels": ("prospr_channel", "three_sp", "random_channel", "dpf_filter", "sfp"),
}
EMERGENT = ("dense", "snr", "snr_frozen")
CIFAR = """\
CIFAR-10, ResNet-20, 8 epochs, two seeds; the images were re-encoded as JPEG, so that accuracies compare with each other
only."""
RESNET = "CIFAR-10, ResNet-20, 3 epochs, one recipe for all methods, two seeds: how methods begin, not where they end."
VISION = """\
CIFAR-10, `vit-tiny`, a vision transformer of 6 blocks of width 192. *Time* of a step, changes of pattern included, and
*memory* (weights, indices, gradients, optimizer state) are divided by those of the dense network. One recipe,"""
TEXT = """\
`gpt-mini`, 4 blocks of width 256, on sources of Python's standard library: bits per byte of its last tenth, less is
better. With *as many steps* as the dense network, and with *as much time*: more steps the sooner a step is done, by
times that were measured in turns. *Time* of a step, changes of pattern included, and *memory* (weights, indices,
gradients, optimizer state) are divided by those of the dense network."""
TUNED = """\
`gpt-mini`, trained on some sources of Python's standard library, pruned once by magnitude in each layer, and fine-tuned
on others by AdamW. Losses are on the last tenth of these. Time, of the median step, and memory (weights, indices,
gradients, optimizer state) are divided by those of the dense network:"""


def methods(names: Sequence[str], runs: Rows, sparsities: Sequence[float] = SPARSITIES) -> str:
    """Methods at each sparsity, the best at the highest first; time and memory divided by the dense network's."""
    dense = ranking.costs([run for run in runs if run["what"] == "dense"])
    own = {name: [[run for run in runs if (run["what"], run["at"]) == (name, s)] for s in sparsities] for name in names}
    lines = []
    for name in sorted(names, key=lambda name: -_mean(own[name][-1])):
        cells = [cell for found in own[name] for cell in (_reached(found), *_costs(found, dense))]
        lines.append([f"`{name}`", *cells])
    heads = [f"{title}, {at}" for at in percents(sparsities) for title in ("accuracy", "time", "memory")]
    return markdown.table(["", *heads], lines)


def vision(runs: Rows) -> str:
    """Methods on a vision transformer."""
    dense = [run for run in runs if run["what"] == "dense"]
    names = dict.fromkeys(run["what"] for run in runs if run["at"] is not None)
    ats = sorted({run["at"] for run in runs if run["at"] is not None})
    seeds = len({run["seed"] for run in runs})
    said = f"{dense[0]['epochs']} epochs, {'one seed' if seeds == 1 else f'{seeds} seeds'}"
    return f"{VISION} {said}. The dense network reaches {_reached(dense)}.\n\n{methods(list(names), runs, ats)}"


def emergent(runs: Rows) -> str:
    """The methods that find their own sparsity, and the dense network."""
    dense = ranking.costs([run for run in runs if run["what"] == "dense"])
    lines = []
    for name in EMERGENT:
        found = [run for run in runs if run["what"] == name]
        sparsity = f"{100 * fmean(run['sparsity'] for run in found):.3g} %"
        lines.append([name if name == "dense" else f"`{name}`", sparsity, _reached(found), *_costs(found, dense)])
    return markdown.table(["", "sparsity", "accuracy", "time", "memory"], lines)


def twins(rows: Rows) -> str:
    """Accuracies on nonzeros beside those of the masked twin, the best first."""
    means = {(row["method"], row["backend"]): accuracy(row["accuracy_mean"], row["accuracy_std"]) for row in rows}
    sparse = sorted((row for row in rows if row["backend"] == "sparse"), key=lambda row: -row["accuracy_mean"])
    lines = [["dense", means["dense", "auto"], ""]]
    lines += [[f"`{row['method']}`", *(means[row["method"], b] for b in ("sparse", "masked"))] for row in sparse]
    return markdown.table(["", "on nonzeros", "masked twin"], lines)


def tuning(rows: Rows) -> str:
    """Fine-tuning of pruned copies beside that of the dense network, below what was measured."""
    (dense,) = (row for row in rows if not row["sparsity"])
    lines = [
        [
            f"{row['sparsity']:.0%} zeros, kept".replace("%", " %") if row["sparsity"] else "dense",
            f"{row['bits_before']:.3f}",
            f"{row['bits_after']:.3f}",
            *(number(row[key] / dense[key]) for key in ("ms", "bytes")),
        ]
        for row in rows
    ]
    head = ["", "bits per byte before", "after", "time of a step", "memory"]
    return f"{TUNED}\n\n{markdown.table(head, lines)}"


def text(runs: Rows) -> str:
    """Methods on a text, after as many steps and after as much time as the dense network."""
    ats = sorted({run["at"] for run in runs if run["at"] is not None})
    dense = [run for run in runs if run["what"] == "dense"]
    base = losses.milliseconds(dense[0])
    lines, middle = [], ats[len(ats) // 2]
    for what in dict.fromkeys(run["what"] for run in runs if run["at"] is not None):
        found = {
            group: [[r for r in runs if (r["group"], r["what"], r["at"]) == (group, what, at)] for at in ats]
            for group in ("steps", "time")
        }
        own = found["steps"][ats.index(middle)]
        ratios = ["", ""]
        if own and base and own[0]["milliseconds"]:
            bytes_of = [fmean(run["peak_weight_bytes"] for run in some) for some in (own, dense)]
            ratios = [number(own[0]["milliseconds"] / base), number(bytes_of[0] / bytes_of[1])]
        lines.append([f"`{what}`", *(_loss(cell) for group in found.values() for cell in group), *ratios])
    heads = [f"{name}, {at}" for name in ("as many steps", "as much time") for at in percents(ats)]
    at = percents([middle])[0]
    seeds = len({run["seed"] for run in runs})
    caption = f"{TEXT} The dense network reaches {_loss(dense)}; {'one seed' if seeds == 1 else f'{seeds} seeds'}."
    return f"{caption}\n\n{markdown.table(['', *heads, f'time, {at}', f'memory, {at}'], lines)}"


def _loss(runs: Rows) -> str:
    found = [losses.bits(run) for run in runs]
    spread = f" ± {stdev(found):.3f}" if len(found) > 1 else ""
    return f"{fmean(found):.3f}{spread}" if found else ""


def cifar(rows: Rows) -> str:
    names = {"masked": "masked twin", "auto": "on nonzeros", "sparse": "on nonzeros"}
    lines = [
        [
            row["method"]
            if row["method"] == "dense"
            else f"{row['method']} {row['sparsity']:.0%}, {names[row['backend']]}",
            accuracy(row["accuracy_mean"], row["accuracy_std"]),
            f"{row['train_seconds']:.0f}",
            f"{1e3 * row['seconds_per_step']:.0f}",
            f"{row['peak_memory_bytes'] / 2**20:.0f}",
        ]
        for row in rows
    ]
    return markdown.table(["", "test accuracy, %", "training, s", "ms per step", "peak MiB"], lines)


def digits(rows: Rows) -> str:
    """The first comparison of a newcomer: every method of it by its defaults, best first."""
    (dense,) = (row for row in rows if row["method"] == "dense")
    lines = [
        [
            row["method"] if row["method"] == "dense" else f"`{row['method']}`",
            f"{100 * row['sparsity']:.3g} %",
            accuracy(row["accuracy_mean"], row["accuracy_std"]),
            *(number(row[key] / dense[key]) for key in ("seconds_per_step", "train_seconds", "peak_weight_bytes")),
        ]
        for row in sorted(rows, key=lambda row: (row is not dense, -row["accuracy_mean"]))
    ]
    head = ["", "sparsity", "test accuracy, %", "median step", "all steps", "memory"]
    return markdown.table(head, lines)


def ranks(rows: Rows) -> str:
    """Bytes of data-parallel training. A ring of W ranks, which gloo and NCCL make of large reductions, sends
    2 (W - 1) / W times what a step reduces from each."""
    lines = []
    for row in rows:
        sent = (2 * (count - 1) / count * row["step"] for count in RANKS)
        lines.append([f"`{row['method']}`", *map(_bytes, (row["step"], row["change"], row["kept"], *sent))])
    of = [f"a rank of {count:,} sends" for count in RANKS]
    return markdown.table(["", "a step reduces", "a change of pattern, besides", "a rank keeps", *of], lines)


def shards(rows: Rows) -> str:
    """Bytes of training with fully_shard."""
    lines = []
    for row in rows:
        kept = (row["whole"] + row["split"] / count for count in RANKS)
        lines.append([f"`{row['method']}`", *map(_bytes, (row["split"], row["whole"], *kept))])
    of = [f"a rank of {count:,} keeps" for count in RANKS]
    return markdown.table(["", "all ranks together", "every rank, besides", *of], lines)


def _bytes(size: float) -> str:
    return f"{size / 1e6:.3g} MB" if size >= 1e4 else f"{size:.0f} B" if size else "0"


def widths(runs: Rows) -> str:
    """Accuracies of networks of several widths with as many weights."""
    ats = sorted({run["at"] for run in runs if run["at"]})
    lines = []
    for what in dict.fromkeys(run["what"] for run in runs):
        found = {at: [run for run in runs if (run["what"], run["at"]) == (what, at)] for at in ats}
        name = what if what == "dense" else f"`{what}`"
        lines.append([name, *(_reached(own) if own else "" for own in found.values())])
    return markdown.table(["test accuracy, %, at the width", *(f"{at:g}" for at in ats)], lines)


def reached(caption: str, runs: Rows) -> str:
    """Accuracies of all methods at every sparsity below the caption, the best at the highest first."""
    ats = sorted({run["at"] for run in runs if run["at"]})
    dense = [run for run in runs if run["what"] == "dense"]
    found = {
        what: [[run for run in runs if (run["what"], run["at"]) == (what, at)] for at in ats]
        for what in dict.fromkeys(run["what"] for run in runs if run["at"])
    }
    order = sorted(found, key=lambda what: -_mean(found[what][-1]) if found[what][-1] else 0.0)
    lines = [[f"`{what}`", *(_reached(own) if own else "" for own in found[what])] for what in order]
    head = ["test accuracy, %", *percents(ats)]
    return f"{caption} The dense network reaches {_reached(dense)}.\n\n{markdown.table(head, lines)}"


def _mean(runs: Rows) -> float:
    return fmean(run["test_accuracy"] for run in runs)


def _reached(runs: Rows) -> str:
    found = [run["test_accuracy"] for run in runs]
    return accuracy(fmean(found), stdev(found) if len(found) > 1 else None)


def _costs(runs: Rows, dense: dict[str, float]) -> list[str]:
    own = ranking.costs(runs)
    return [number(own[key] / dense[key]) for key in ("milliseconds", "bytes")]


BASELINES = {name: partial(methods, names) for name, names in GROUPS.items()} | {"methods-emergent": emergent}

"""A small transformer on the sources of Python's standard library: methods for as many steps, and for as much time."""

import sysconfig
from collections.abc import Iterable
from pathlib import Path

from benchmarks.papers import losses, measure
from benchmarks.papers.experiment import Experiment, Flags, Trial

METHODS = ("snip", "rigl", "gse_grabo", "dpf", "optg", "gmp")
SPARSITIES = (0.8, 0.9, 0.95)
OPTIONS = {"optg": [("steepness", 1)]}  # of its code; 80 / 4 epochs would prune in two steps
LIBRARY = Path(sysconfig.get_path("stdlib"))
SOURCES = str(LIBRARY / "a*.py")
TIMES = Path(__file__).parents[1] / "results" / "paper-gpt" / "times.json"
COMMON: Flags = {
    "model": "gpt-mini",
    "epochs": 4,
    "batch_size": 16,
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.1,
    "schedule": "cosine",
    "warmup": 1,
}


def _runs(seed: int) -> Iterable[Trial]:
    """Trials for as many steps as the dense network, then, where a step has been measured, for as much time."""
    yield Trial("steps", "dense", None, seed, {"method": "dense"})
    times = measure.read(TIMES)
    for group in ("steps", "time"):
        for sparsity in SPARSITIES:
            for method in METHODS:
                flags: Flags = {"method": method, "sparsity": sparsity, "set": OPTIONS.get(method, [])}
                if group == "time":
                    if ("steps", method, sparsity) not in times:
                        continue
                    ratio = times["steps", "dense", None] / times["steps", method, sparsity]
                    flags["epochs"] = max(1, round(ratio * COMMON["epochs"]))
                yield Trial(group, method, sparsity, seed, flags)


EXPERIMENT = Experiment(
    "A decoder on the sources of Python's standard library",
    {"steps": "sparsity", "time": "sparsity"},
    "text",
    COMMON,
    _runs,
    (0, 1),
    """\
`gpt-mini`: 4 blocks of width 256, whose 24 linear layers are pruned; embeddings and head stay dense. The text is the
sources of the modules whose names begin with an a, as bytes, the last tenth of each to test on. One recipe for all,
AdamW along a cosine, and of each method the options of its paper, scaled to this length by the method. A run sees the
text a few times and ends long before a network of this size has learned what it can, so that the losses tell how fast
methods learn.

For as much time: every method trains for as many epochs as the dense network's time allows it, by the milliseconds of
the table, changes of pattern included, each with a schedule of its own. Memory is the most that weights, indices,
gradients and optimizer state took; activations come on top.""",
    data_dir=SOURCES,
    tables=losses.tables,
    draw=losses.draw,
)

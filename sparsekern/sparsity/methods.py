"""The published methods, each a composition of the vocabulary.

Every constructor is called `NAME(sparsity=, total_steps=, steps_per_epoch=None, **options)` and returns a `Method`;
the options are the paper's hyperparameters with the paper's defaults. `total_steps` counts optimizer steps.
"""

import difflib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from . import growth, scores, views
from .distributions import Distribution, by_name
from .growth import Growth
from .method import Method
from .schedules import Cadence, constant, cosine, cubic

# The paper's number of changes, kept where a run is too short for the paper's period.
GSE_CHANGES, RIGL_CHANGES = 46, 240


@dataclass(frozen=True)
class Entry:
    """What `sparsekern methods` prints of a method."""

    make: Callable[..., Method]
    title: str
    paper: str
    year: int
    storage: str
    changes: str
    gradient: str


_entries: dict[str, Entry] = {}


def _listed(title: str, paper: str, year: int, *, storage: str, changes: str, gradient: str) -> Callable:
    def register(make: Callable[..., Method]) -> Callable[..., Method]:
        _entries[make.__name__] = Entry(make, title, paper, year, storage, changes, gradient)
        return make

    return register


def names() -> list[str]:
    """The canonical names."""
    return list(_entries)


def get(name: str) -> Callable[..., Method]:
    """The constructor of a method by its canonical name.

    Raises:
        ValueError: no method has that name; the message lists the nearest.
    """
    if name not in _entries:
        near = difflib.get_close_matches(name, _entries, n=3, cutoff=0.4) or names()
        raise ValueError(f"unknown method {name!r}; did you mean {', '.join(near)}?")
    return _entries[name].make


def describe(name: str) -> dict[str, Any]:
    """Title, paper, year, storage, when the pattern changes and the gradient it needs."""
    get(name)
    entry = _entries[name]
    return {
        "name": name,
        "title": entry.title,
        "paper": entry.paper,
        "year": entry.year,
        "storage": entry.storage,
        "changes": entry.changes,
        "gradient": entry.gradient,
        "needs_batches": name == "snip",
    }


def _cadence(
    name: str, total_steps: int | None, every: int | None, period: int, stop: float, changes: int, shortest: int = 1
) -> tuple[Cadence, tuple[str, ...]]:
    """Multiples of the paper's period up to `stop`; a run too short for the paper's number of changes has a shorter
    period, so that the number is the paper's, but never below `shortest`."""
    steps = _steps(name, total_steps)
    chosen = every if every is not None else min(period, max(shortest, int(stop // changes)))
    notes = ()
    if every is None and chosen != period:
        notes = (f"{name}: a change every {chosen} steps instead of {period}, for the paper's {changes} changes",)
    cadence = Cadence(chosen, stop=stop)
    if cadence.count(steps) < 3:
        warnings.warn(f"{name} changes its pattern fewer than three times in {steps} steps", stacklevel=4)
    return cadence, notes


def _steps(name: str, total_steps: int | None) -> int:
    if total_steps is None or total_steps < 1:
        raise ValueError(f"{name} needs total_steps, the number of optimizer steps of the run, got {total_steps}")
    return total_steps


def _epoch(name: str, steps_per_epoch: int | None) -> int:
    if steps_per_epoch is None or steps_per_epoch < 1:
        raise ValueError(f"{name} counts in epochs and needs steps_per_epoch, got {steps_per_epoch}")
    return steps_per_epoch


@_listed("No pruning", "-", 0, storage="dense", changes="never", gradient="dense")
def dense(sparsity: float = 0.0, total_steps: int | None = None, steps_per_epoch: int | None = None) -> Method:
    """The dense network, untouched: the reference of every comparison. `sparsity` is ignored."""
    return Method("dense", constant(0.0), storage="dense")


@_listed("Random pattern", "-", 0, storage="nonzeros", changes="never", gradient="active")
def random(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    share: str | Distribution = "uniform",
) -> Method:
    """A static random pattern, exactly G(n, M) in each layer.

    Args:
        share: how the weights are shared by the layers: "uniform", "er", "erk", "global".
    """
    return Method("random", constant(sparsity), share=by_name(share))


@_listed("Magnitude at initialisation", "-", 0, storage="nonzeros", changes="never", gradient="active")
def magnitude_init(sparsity: float, total_steps: int | None = None, steps_per_epoch: int | None = None) -> Method:
    """A static pattern: the globally largest |w| of the initial weights."""
    return Method("magnitude_init", constant(sparsity), start=scores.magnitude)


@_listed("SNIP", "Lee, Ajanthan, Torr, ICLR", 2019, storage="nonzeros", changes="never", gradient="dense, once before")
def snip(sparsity: float, total_steps: int | None = None, steps_per_epoch: int | None = None) -> Method:
    """SNIP: Single-shot Network Pruning based on Connection Sensitivity (Lee et al., ICLR 2019).

    Keeps the globally largest |w * dL/dw| of the initial weights; the gradient is the mean over the batches given to
    `sparsify`, the paper's single batch if there is one. The paper's normalisation by the sum does not change the
    order and is left out. The weights that were scored are the ones that train (some reimplementations score another
    initialisation).
    """
    return Method("snip", constant(sparsity), start=scores.saliency)


@_listed(
    "SET", "Mocanu et al., Nature Communications", 2018, storage="nonzeros", changes="every epoch", gradient="active"
)
def set(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    rate: float = 0.3,
    scope: str = "layer",
    every: int | None = None,
    share: str | Distribution = "er",
) -> Method:
    """SET: Scalable training of artificial neural networks with adaptive sparse connectivity (Mocanu et al. 2018).

    Every epoch each layer drops the fraction `rate` of its weights nearest zero and grows as many at random, each
    absent weight equally likely, at value 0. The paper takes the smallest positive and the largest negative weights
    separately; here, as in later work, the smallest magnitudes.

    Args:
        rate: zeta, the fraction exchanged.
        scope: "layer", or "global" for magnitudes compared over the network and growth in proportion to layer size
            (the SET of the GraBo paper, with every=1000).
        every: steps between changes, an epoch by default.
    """
    period = every if every is not None else _epoch("set", steps_per_epoch)
    cadence, notes = _cadence("set", total_steps, period, period, inf, 0)
    if scope not in ("layer", "global"):
        raise ValueError(f"scope must be 'layer' or 'global', got {scope!r}")
    grow = growth.uniform() if scope == "layer" else growth.uniform_by_size()
    return Method(
        "set",
        constant(sparsity),
        cadence,
        grow=grow,
        rate=constant(rate),
        view=views.layer if scope == "layer" else views.network,
        share=by_name(share),
        notes=notes,
    )


@_listed(
    "RigL",
    "Evci et al., ICML",
    2020,
    storage="nonzeros",
    changes="every 100 steps until 75 % of the run",
    gradient="dense at changes",
)
def rigl(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    rate: float = 0.3,
    every: int | None = None,
    stop: float = 0.75,
    share: str | Distribution = "erk",
) -> Method:
    """Rigging the Lottery: Making All Tickets Winners (Evci et al., ICML 2020).

    Every `every` steps, in place of the weight update, each layer drops its floor(rate_t nnz) smallest magnitudes and
    grows as many by the largest |dL/dw| outside the kept set, at value 0; what was just dropped may return and then
    keeps its value and optimizer state, as in the official code. rate_t = rate / 2 (1 + cos(pi t / T_end)). The
    official code's noise of 1e-5 against ties is left out: of equal scores the lower index wins.

    Args:
        rate: alpha.
        every: Delta T, 100 in the paper; shorter runs scale it towards the paper's number of changes, down to 10, as
            a change costs a weight update.
        stop: fraction of the run after which the pattern rests, T_end.
        share: "erk", "er" or "uniform".
    """
    end = stop * _steps("rigl", total_steps)
    cadence, notes = _cadence("rigl", total_steps, every, 100, end, RIGL_CHANGES, shortest=10)
    return Method(
        "rigl",
        constant(sparsity),
        cadence,
        grow=growth.dense_gradient(),
        rate=cosine(rate, end),
        view=views.layer,
        share=by_name(share),
        update="replace",
        notes=notes,
    )


@_listed(
    "Gradual magnitude pruning",
    "Zhu, Gupta, ICLR workshop",
    2018,
    storage="nonzeros",
    changes="every epoch",
    gradient="active",
)
def gmp(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    every: int | None = None,
    stop: float = 0.75,
) -> Method:
    """To prune, or not to prune (Zhu and Gupta 2018): starts dense and prunes each layer by magnitude.

    s_t = s (1 - (1 - t / T_end)^3), advanced every `every` steps; a pruned weight is deleted and never returns. The
    "Incremental" baseline of the DPF paper.

    Args:
        every: steps between changes, an epoch by default, less in a run too short for three.
        stop: fraction of the run after which the sparsity is final, T_end (the second learning rate drop, 225 of 300
            epochs, in the DPF paper).
    """
    steps = _steps("gmp", total_steps)
    period = every if every is not None else min(_epoch("gmp", steps_per_epoch), max(1, int(stop * steps) // 3))
    end = max(period, min(round(stop * steps / period), (steps - 1) // period) * period)
    if end >= steps:
        raise ValueError(f"gmp prunes every {period} steps, so never in a run of {steps}; give a smaller every")
    cadence, notes = _cadence("gmp", steps, period, period, end, 0)
    return Method("gmp", cubic(sparsity, end, period), cadence, view=views.layer, notes=notes)


def _gse(
    name: str,
    grow: Growth,
    sparsity: float,
    total_steps: int | None,
    rate: float,
    every: int | None,
    stop: float,
    share: str | Distribution,
    initialize: str,
) -> Method:
    if initialize not in ("fan_in", "keep"):
        raise ValueError(f"initialize must be 'fan_in' or 'keep', got {initialize!r}")
    end = stop * _steps(name, total_steps)
    cadence, notes = _cadence(name, total_steps, every, 1000, end, GSE_CHANGES)
    return Method(
        name,
        constant(sparsity),
        cadence,
        grow=grow,
        rate=cosine(rate, end),
        view=views.network,
        share=by_name(share),
        initialize=initialize,  # type: ignore[arg-type]
        notes=notes,
    )


@_listed(
    "Memory-efficient DST, random subset",
    "Heddes et al.",
    2024,
    storage="nonzeros",
    changes="every 1000 steps until the second learning rate drop",
    gradient="sampled subset at changes",
)
def gse_random(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    multiplier: float = 10,
    rate: float = 0.2,
    every: int | None = None,
    stop: float = 0.6,
    share: str | Distribution = "uniform",
    initialize: str = "fan_in",
) -> Method:
    """As `gse_grabo`, the subset drawn uniformly over the absent weights of each layer."""
    grow = growth.sampled_gradient(growth.flat, multiplier)
    return _gse("gse_random", grow, sparsity, total_steps, rate, every, stop, share, initialize)


@_listed(
    "Memory-efficient DST, GraBo",
    "Heddes et al.",
    2024,
    storage="nonzeros",
    changes="every 1000 steps until the second learning rate drop",
    gradient="sampled subset at changes",
)
def gse_grabo(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    multiplier: float = 10,
    rate: float = 0.2,
    every: int | None = None,
    stop: float = 0.6,
    share: str | Distribution = "uniform",
    initialize: str = "fan_in",
) -> Method:
    """Memory Efficient Dynamic Sparse Training, with the gradient bound as guide (Heddes et al.).

    At a change K = floor(rate_t |A|), rate_t = rate / 2 (1 + cos(pi t / T_end)). Each layer draws its share,
    proportional to its size, of `multiplier` K absent weights with probability proportional to
    sum_i |h_ia| * sum_i |delta_ib|; the K smallest |w| of the network are dropped and the K largest |dL/dw| of the
    subset grown at value 0. Nothing of the dense layers' size is ever made. What was dropped cannot return in the same
    round; the optimizer steps first, on the same batch. Differences from the official code, which grows before it
    prunes, draws with replacement, and computes dense gradients: the paper is followed.

    Args:
        multiplier: mu, the subset's size in units of K; the paper sweeps 1 to 10.
        rate: the fraction exchanged at the first change.
        every: steps between changes, 1000 in the paper; shorter runs scale it to the paper's 46 changes unless given.
        stop: fraction of the run after which the pattern rests, the second learning rate drop (120 of 200 epochs).
        initialize: "fan_in" draws new weights for the pattern, as in the paper; "keep" keeps those of the model.
    """
    grow = growth.sampled_gradient(growth.gradient_bound, multiplier)
    return _gse("gse_grabo", grow, sparsity, total_steps, rate, every, stop, share, initialize)

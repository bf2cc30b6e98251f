"""Memory Efficient Dynamic Sparse Training: growth by gradients of a sampled subset (Heddes et al.)."""

from .. import growth, views
from ..distributions import Distribution, by_name
from ..growth import Growth
from ..method import Method
from ..schedules import constant, cosine
from .registry import Entry, cadence, end_of, listed

# The paper's number of changes, kept where a run is too short for the paper's period.
CHANGES = 46


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
    end = end_of(name, stop, total_steps)
    when, notes = cadence(name, total_steps, every, 1000, end, CHANGES)
    return Method(
        name,
        constant(sparsity),
        when,
        grow=grow,
        rate=cosine(rate, end),
        view=views.network,
        share=by_name(share),
        initialize=initialize,  # type: ignore[arg-type]
        notes=notes,
    )


@listed(
    Entry(
        "Memory-efficient DST, random subset",
        "Heddes et al.",
        2024,
        storage="nonzeros",
        changes="every 1000 steps until the second learning rate drop",
        gradient="sampled subset at changes",
    )
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


@listed(
    Entry(
        "Memory-efficient DST, GraBo",
        "Heddes et al.",
        2024,
        storage="nonzeros",
        changes="every 1000 steps until the second learning rate drop",
        gradient="sampled subset at changes",
    )
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

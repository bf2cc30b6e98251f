"""Patterns that change while the network trains."""

from math import inf

from ..growth import candidates as growth
from ..method import Method
from ..parts import views
from ..parts.distributions import Distribution, by_name
from ..parts.schedules import Cadence, constant, cosine, cubic
from .registry import Entry, cadence, end_of, epoch_of, listed, steps_of

# The paper's number of changes, kept where a run is too short for the paper's period.
CHANGES = 240


@listed(
    Entry(
        "SET",
        "Mocanu et al., Nature Communications",
        2018,
        storage="nonzeros",
        changes="every epoch",
        gradient="active",
    )
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
    initialize: str = "keep",
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
        initialize: "keep" keeps the weights of the model, "fan_in" draws new ones for the pattern, as `gse_*` do.
    """
    period = every if every is not None else epoch_of("set", steps_per_epoch)
    when, notes = cadence("set", total_steps, period, period, inf, 0)
    if scope not in ("layer", "global"):
        raise ValueError(f"scope must be 'layer' or 'global', got {scope!r}")
    grow = growth.uniform() if scope == "layer" else growth.uniform_by_size()
    return Method(
        "set",
        constant(sparsity),
        when,
        grow=grow,
        rate=constant(rate),
        view=views.layer if scope == "layer" else views.network,
        share=by_name(share),
        initialize=initialize,  # type: ignore[arg-type]
        notes=notes,
    )


@listed(
    Entry(
        "RigL",
        "Evci et al., ICML",
        2020,
        storage="nonzeros",
        changes="every 100 steps until 75 % of the run",
        gradient="dense at changes",
    )
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
    initialize: str = "keep",
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
        initialize: "keep" keeps the weights of the model, "fan_in" draws new ones for the pattern, as `gse_*` do.
    """
    end = end_of("rigl", stop, total_steps)
    when, notes = cadence("rigl", total_steps, every, 100, end, CHANGES, shortest=10)
    return Method(
        "rigl",
        constant(sparsity),
        when,
        grow=growth.dense_gradient(),
        rate=cosine(rate, end),
        view=views.layer,
        share=by_name(share),
        update="replace",
        initialize=initialize,  # type: ignore[arg-type]
        notes=notes,
    )


@listed(
    Entry(
        "Gradual magnitude pruning",
        "Zhu, Gupta, ICLR workshop",
        2018,
        storage="nonzeros",
        changes="every epoch",
        gradient="active",
    )
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
    "Incremental" baseline of the DPF paper. Values, gradients and optimizer state give room back when half of the
    network's is empty (later if s is above 94 %), and all of it at the final sparsity: up to five times in a run, each
    a compilation where the model is compiled (`Sparsifier.reallocated`).

    Args:
        every: steps between changes, an epoch by default, less in a run too short for three.
        stop: fraction of the run after which the sparsity is final, T_end (the second learning rate drop, 225 of 300
            epochs, in the DPF paper).
    """
    steps, last = steps_of("gmp", total_steps), end_of("gmp", stop, total_steps)
    period = every if every is not None else min(epoch_of("gmp", steps_per_epoch), max(1, int(last) // 3))
    if period < 1:
        raise ValueError(f"gmp takes every >= 1, got {period}")
    end = max(period, min(round(last / period), (steps - 1) // period) * period)
    if end >= steps:
        raise ValueError(f"gmp prunes every {period} steps, so never in a run of {steps}; give a smaller every")
    when, notes = cadence("gmp", steps, period, period, end, 0)
    return Method("gmp", cubic(sparsity, end, period), when, view=views.layer, notes=notes)


@listed(
    Entry(
        "Discovering neural wirings",
        "Wortsman, Farhadi, Rastegari, NeurIPS",
        2019,
        storage="dense weight",
        changes="every step",
        gradient="dense",
    )
)
def dnw(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    min_per_layer: int = 0,
) -> Method:
    """DNW: Discovering Neural Wirings (Wortsman, Farhadi, Rastegari, NeurIPS 2019), section 4.3, for sparse networks.

    Before every step each layer's mask becomes that of its largest |w|, all layers at the sparsity s from the first
    step on; the dense gradient at m w goes to all of w (straight-through), so that edges out of use compete to come
    back. `dpf_layerwise` with every=1 and no ramp, but over all linear layers and convolutions, as in the paper's
    sparse ResNet-50. Weight decay is the optimizer's, on the dense weight, and the mask is made a last time after the
    last step. The official code rounds the number of each layer down; here the number of all is exact.

    Args:
        min_per_layer: weights that stay in every layer.
    """
    steps_of("dnw", total_steps)
    return Method(
        "dnw",
        constant(sparsity),
        Cadence(1, start=0),
        storage="master",
        view=views.layer,
        update="before",
        min_per_layer=min_per_layer,
    )

"""Rigging the Lottery (Evci et al., ICML 2020): growth by the dense gradient; see `growth/by_dense_gradient.py`."""

from .. import growth
from ..method import Method
from ..parts import scopes, views
from ..parts.distributions import Distribution
from ..parts.schedules import constant, cosine
from ..scoring.start import drawn
from .registry import ROWS, listed
from .request import Request

# The paper's number of changes, kept where a run is too short for the paper's period.
CHANGES = 240
COST = 2  # of a change, in training steps


@listed(
    "RigL",
    paper="Evci et al., ICML",
    year=2020,
    changes="every 100 steps until 75 % of the run",
    gradient="active weights; dense at changes",
    structures=ROWS,
)
def rigl(
    request: Request,
    *,
    rate: float = 0.3,
    every: int | None = None,
    stop: float = 0.75,
    share: str | Distribution = "erk",
    dense_first: bool | None = None,
    initialize: str = "rescale",
) -> Method:
    """RigL: Rigging the Lottery, Making All Tickets Winners (Evci et al., ICML 2020, arXiv 1911.11134).

    Every `every` steps, in place of the weight update, each layer drops its floor(rate_t nnz) smallest magnitudes and
    grows as many by the largest |dL/dw| outside the kept set, at value 0. What was just dropped may return and then
    keeps its value and optimizer state, as in the official code. rate_t = rate / 2 (1 + cos(pi t / T_end)). The
    official code's noise of 1e-5 against ties is left out: of equal scores the lower index wins.

    `structure="fan_in"` is SRigL without ablation of neurons (Lasby et al., ICLR 2024, arXiv 2305.02299): what a layer
    drops is chosen as above, and every output grows as many weights as it has lost, by its largest |dL/dw|. Its fan-in
    is the same number in all outputs of a layer, rounded to the nearest that gives the layer's sparsity.

    Args:
        rate: alpha, the fraction of its weights that a layer exchanges at the first change.
        every: Delta T, 100 in the paper; shorter runs scale it to the paper's 240 changes, down to 20.
        stop: fraction of the run after which the pattern is frozen, T_end.
        share: how the layers share the weights: "erk", "er" or "uniform".
        dense_first: leave the first layer dense; None: with `share="uniform"`, as the paper does.
        initialize: "rescale" multiplies the weights of the model by sqrt(dense fan-in / fan-in) of their row, so that
            outputs keep their scale; "keep" takes them as they are, as the paper does; "fan_in" draws new ones, as
            `gse_*` do.
    """
    end = request.end(stop)
    dense_first = share == "uniform" if dense_first is None else dense_first
    return Method(
        request.name,
        constant(request.sparsity),
        request.paced(every, 100, end, CHANGES, COST),
        start=drawn(share, initialize, scopes.without_first if dense_first else scopes.everything),
        view=views.layer,
        grow=growth.dense_gradient(cosine(rate, end), replaces_step=True),
    )

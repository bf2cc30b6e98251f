"""Scalable training of artificial neural networks with adaptive sparse connectivity (Mocanu et al. 2018)."""

from math import inf
from typing import Literal, get_args

from .. import growth
from ..method import Method
from ..parts import views
from ..parts.distributions import Distribution
from ..parts.schedules import Cadence, constant, cosine
from ..scoring.start import drawn
from .registry import ROWS, listed
from .request import Request, check_choice

Decay = Literal["constant", "cosine"]
COST = 1  # of a change, in training steps


@listed("SET", paper="Mocanu et al., Nature Communications", year=2018, changes="every epoch", structures=ROWS)
def set(
    request: Request,
    *,
    rate: float = 0.3,
    decay: Decay = "constant",
    stop: float = 1.0,
    scope: str = "layer",
    every: int | None = None,
    share: str | Distribution = "er",
    initialize: str = "rescale",
) -> Method:
    """SET: Scalable training of artificial neural networks with adaptive sparse connectivity (Mocanu et al., Nature
    Communications 2018, arXiv 1707.04780).

    Every epoch each layer drops the fraction `rate` of its weights nearest zero and grows as many at random, each
    absent weight equally likely, at value 0. The paper takes the smallest positive and the largest negative weights
    separately; here, as in later work, the smallest magnitudes.

    The SET of the GraBo paper (arXiv 2401.06898) is
    `set(rate=0.2, decay="cosine", stop=0.6, scope="global", every=1000, share="uniform", initialize="fan_in")`.

    With `structure="fan_in"` every output grows as many weights as it has lost, and keeps its fan-in.

    Args:
        rate: zeta, the fraction exchanged, at the first change.
        decay: "constant", or "cosine": the fraction is rate / 2 (1 + cos(pi t / T_end)).
        stop: fraction of the run after which the pattern is frozen, T_end.
        scope: "layer", or "global" for magnitudes compared over the network and growth in proportion to layer size.
        every: steps between changes, an epoch by default.
        share: how the layers share the weights: "er", "erk", "uniform".
        initialize: "rescale" multiplies the weights of the model by sqrt(dense fan-in / fan-in) of their row, so that
            outputs keep their scale; "keep" takes them as they are, as the paper does; "fan_in" draws new ones, as
            `gse_*` do.
    """
    period, end = request.each_epoch(every, COST), request.end(stop)
    check_choice("scope", scope, ("layer", "global"))
    check_choice("decay", decay, get_args(Decay))
    exchange = constant(rate) if decay == "constant" else cosine(rate, end)
    return Method(
        request.name,
        constant(request.sparsity),
        request.often(Cadence(period, stop=inf if stop == 1 else end)),
        start=drawn(share, initialize),
        view=views.layer if scope == "layer" else views.network,
        grow=growth.uniform(exchange) if scope == "layer" else growth.uniform_by_size(exchange),
    )

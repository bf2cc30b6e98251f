"""Sparse Training via Boosting Pruning Plasticity with Neuroregeneration (Liu et al., NeurIPS 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from torch import Tensor

from ... import ops
from ...topology import nnz_at
from .. import growth
from ..method import Method
from ..parts import views
from ..parts.distributions import Distribution
from ..parts.schedules import Schedule, cosine, cubic
from ..rule import Rule
from ..scoring.start import drawn
from ..sites.nonzeros import NonzerosSite
from .registry import listed
from .request import Request

# The paper's number of changes, kept where a run is too short for the paper's period: 160 epochs of 391 steps.
CHANGES = 62
COST = 2  # of a change, in training steps


@dataclass(frozen=True)
class PruneAndRegenerate(Rule):
    """Prunes globally to the schedule, then exchanges weights within each layer."""

    sparsity: Schedule
    rate: Schedule
    minimum: int  # of weights in every layer
    prune_missed = True

    def exchange(self, sites: Sequence[NonzerosSite], step: int) -> list[tuple[Tensor, int]]:
        weights = [site.weight for site in sites]
        total = min(nnz_at(self.sparsity(step), sum(site.size for site in sites)), sum(site.nnz for site in sites))
        left = ops.host.counts(views.network.largest(weights, [total], self.minimum, absolute=True))
        pairs = zip(sites, left, strict=True)
        counts = [0 if site.missed else min(n, ceil(self.rate(step) * n - 1e-9)) for site, n in pairs]
        stays = views.layer.largest(weights, [n - k for n, k in zip(left, counts, strict=True)], absolute=True)
        return list(zip(stays, counts, strict=True))


@listed(
    "GraNet",
    paper="Liu et al., NeurIPS",
    year=2021,
    storage="nonzeros; half of the weights at first",
    changes="every 1000 steps",
    gradient="active weights; dense at changes",
)
def granet(
    request: Request,
    *,
    initial: float = 0.5,
    rate: float = 0.5,
    every: int | None = None,
    stop: float = 0.6875,
    share: str | Distribution = "erk",
    initialize: str = "rescale",
    min_per_layer: int = 0,
) -> Method:
    """GraNet: Sparse Training via Boosting Pruning Plasticity with Neuroregeneration (Liu et al., NeurIPS 2021, arXiv
    2106.10404). Gradual magnitude pruning of a sparse network, which regenerates as many weights as it drops.

    Every `every` steps, after the weight update: the network is pruned to s_t = s + (s_0 - s)(1 - t / T_end)^3 by the
    globally smallest |w|; then each layer drops its ceil(rate_t nnz) smallest magnitudes and grows as many by the
    largest |dL/dw| of the step outside the kept set, at value 0. rate_t falls from `rate` to 0.005 along a cosine over
    the whole run, and the exchange goes on after T_end. Absent weights have no optimizer state (the code zeroes their
    momentum). Layers give room back as they are pruned.

    What was dropped in the same change may return and then keeps its value and optimizer state; in the code that holds
    for the exchange, while what the global pruning took returns at 0. The code prunes by a strict threshold, which
    takes more than the schedule where magnitudes are equal, and its integer division may leave out the last increment;
    here every count is exact and s is reached; so is that of the first pattern, which the code draws weight by weight.

    Args:
        initial: s_0, the sparsity of the first pattern; that of the run if it is lower. The paper compares with gradual
            magnitude pruning from s_0 = 0.
        rate: the fraction of its weights that a layer exchanges, at the first step.
        every: Delta T, 1000 in the paper's CIFAR runs; shorter runs scale it to their 62 changes, down to 20.
        stop: fraction of the run after which the sparsity is final, T_end (epoch 110 of 160 in the code; 30 of 100 on
            ImageNet).
        share: of the first pattern: "erk", "er" or "uniform".
        initialize: "rescale" multiplies the weights of the model by sqrt(dense fan-in / fan-in) of their row, so that
            outputs keep their scale; "keep" takes them as they are, as the paper does; "fan_in" draws new ones.
        min_per_layer: weights that stay in every layer.
    """
    request.check(0 <= initial < 1, f"takes an initial sparsity in [0, 1), got {initial}")
    steps, last, sparsity = request.steps, request.end(stop), request.sparsity
    when = request.paced(every, 1000, steps - 1, CHANGES, COST)
    end = min(max(1, round(last / when.period)), (steps - 1) // when.period) * when.period
    request.check(end > 0, f"prunes every {when.period} steps, so never in a run of {steps}; give a smaller every")
    ramp, exchange = cubic(sparsity, end, when.period, min(initial, sparsity)), cosine(rate, steps, min(rate, 0.005))
    return Method(
        request.name,
        ramp,
        when,
        start=drawn(share, initialize),
        view=replace(views.layer, min_per_layer=min_per_layer),
        grow=growth.dense_gradient(exchange),
        rule=PruneAndRegenerate(ramp, exchange, min_per_layer),
    )

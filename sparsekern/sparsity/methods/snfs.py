"""Sparse Networks from Scratch: Faster Training without Losing Performance (Dettmers and Zettlemoyer 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import torch
from torch import Tensor

from ..method import Method
from ..parts import views
from ..parts.distributions import Distribution, apportion
from ..parts.schedules import Cadence, Schedule, constant, cosine
from ..rule import Rule
from ..scoring.start import drawn
from ..sites.layer_site import LayerSite
from .registry import listed
from .request import Request, check, check_choice

COST = 1  # of a change, in training steps


def momentum(site: LayerSite) -> Tensor:
    """Returns |momentum| of every weight: the optimizer's buffer, or m / (sqrt(v) + 1e-8) of Adam's; of an optimizer
    that has none it is the gradient of the step."""
    state = site.moments
    if "exp_avg" in state and "exp_avg_sq" in state:
        return (state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-8)).abs()
    own = state.get("momentum_buffer", site.grad)
    return torch.zeros_like(site.weight) if own is None else own.abs()


@dataclass(frozen=True)
class SparseMomentum(Rule):
    """Makes masks by magnitude and momentum, and keeps absent weights at 0 after every step."""

    rate: Schedule

    def begin(self, site: LayerSite) -> dict[str, Tensor]:
        site.write(site.weight.mul_(site.active.mask()))
        return {}

    def after_step(self, site: LayerSite, step: int, lr: float, generator: torch.Generator) -> None:
        site.write(site.module.rows_of(site.module.dense_weight()))

    def masks(self, sites: Sequence[LayerSite], step: int, losses: Sequence[float]) -> list[Tensor]:
        active, moments = [site.active.mask() for site in sites], [momentum(site) for site in sites]
        shares = [float(m[mask].mean()) if mask.any() else 0.0 for m, mask in zip(moments, active, strict=True)]
        removed = [self._removed(site, share, shares, step) for site, share in zip(sites, shares, strict=True)]
        magnitudes = [site.weight.abs().masked_fill(~mask, -1) for site, mask in zip(sites, active, strict=True)]
        stays = views.layer.largest(magnitudes, [site.nnz - n for site, n in zip(sites, removed, strict=True)])
        free = [site.size - site.nnz + n for site, n in zip(sites, removed, strict=True)]
        grown = apportion(shares, [floor(0.99 * n) for n in free], sum(removed))
        if sum(grown) < sum(removed):
            grown = apportion(shares, free, sum(removed))
        candidates = [m.masked_fill(keep, -1) for m, keep in zip(moments, stays, strict=True)]
        masks = [a | b for a, b in zip(stays, views.layer.largest(candidates, grown), strict=True)]
        for site, mask in zip(sites, masks, strict=True):
            site.become(site.weight * mask)
        return masks

    def _removed(self, site: LayerSite, share: float, shares: Sequence[float], step: int) -> int:
        """Returns how many weights a layer drops: fewer if it is nearly full and about to get more than the average."""
        rate, sparsity = self.rate(step), site.active.sparsity
        if sparsity < 0.2 and share > sum(shares) / len(shares):
            rate = min(rate, sparsity)
        return min(site.nnz, ceil(rate * site.nnz - 1e-9))


@listed(
    "SNFS, sparse momentum",
    paper="Dettmers, Zettlemoyer, arXiv 1907.04840",
    year=2019,
    storage="dense weights and optimizer state",
    changes="every epoch",
    gradient="dense",
)
def snfs(
    request: Request,
    *,
    rate: float = 0.5,
    every: int | None = None,
    share: str | Distribution = "uniform",
    initialize: str = "rescale",
) -> Method:
    """SNFS: Sparse Networks from Scratch, Faster Training without Losing Performance (Dettmers and Zettlemoyer 2019,
    arXiv 1907.04840). Weights move to where the optimizer's momentum is large, between layers and within them.

    The gradient is dense in every step, and so are the optimizer's moments; absent weights are 0 after every step. At
    the end of an epoch layer l drops its ceil(p n_l) smallest |w| of n_l; what all drop is shared in proportion to the
    layers' mean |momentum| of their active weights, taken before; each layer grows its largest |momentum| outside the
    kept set, at value 0 with the momentum that it has; what was just dropped may return and then keeps its value, as in
    the official code. No layer gets more than 99 % of its free places, the rest goes to the others. A layer that is
    less than 20 % sparse and gets more than the average drops min(p, its sparsity). p falls from `rate` to 0.005 along
    a cosine. With Adam the momentum is m / (sqrt(v) + 1e-8); an optimizer without momentum leaves the gradient of the
    step.

    Since momentum and gradient are dense, so are the layers (`MaskedLinear`, `MaskedConv2d`): the products of the
    forward pass and of the input gradient run on the active weights, memory is that of dense training. The official
    code rounds layer by layer and corrects the number of weights by a running estimate, and draws each weight of the
    first pattern by itself; here both counts are exact.

    Args:
        rate: p at the first step, the fraction of its weights that a layer drops.
        every: steps between changes, an epoch by default.
        share: of the first, random pattern: "uniform", "er" or "erk".
        initialize: "rescale" multiplies the weights of the model by sqrt(dense fan-in / fan-in) of their row, so that
            outputs keep their scale; "keep" takes them as they are, as the paper does.
    """
    steps, period = request.steps, request.each_epoch(every, COST)
    check(0 <= rate <= 1, f"rate must lie in [0, 1], got {rate}")
    check_choice("initialize", initialize, ("rescale", "keep"))
    exchange = cosine(rate, steps, min(rate, 0.005))
    return Method(
        request.name,
        constant(request.sparsity),
        request.often(Cadence(period, stop=steps - 1)),
        storage="master",
        start=drawn(share, initialize),
        view=views.layer,
        rule=SparseMomentum(exchange),
    )

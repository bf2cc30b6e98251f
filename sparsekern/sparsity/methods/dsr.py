"""Dynamic sparse reparameterization (Mostafa and Wang, ICML 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ... import ops
from .. import growth
from ..method import Method
from ..parts import scopes, scores, views
from ..parts.distributions import Distribution, apportion
from ..parts.schedules import Cadence, Stages, constant
from ..rule import Rule
from ..scoring.start import drawn
from ..sites.layer_site import LayerSite
from ..sites.nonzeros import NonzerosSite
from .registry import listed
from .request import Request

# Wide ResNet-28-2, 200 epochs of 391 steps: 20,000 weights of the 10 % that are active, and the epochs at which the
# period doubles, the last one being that of the last change. As many changes of the first period, without doubling,
# would take the share FIRST of the run.
SHARE, PERIOD, EPOCHS = 0.13, 100, (25 / 200, 80 / 200, 140 / 200, 190 / 200)
CHANGES, FIRST = 287, 0.369
COST = 1  # of a change, in training steps


@dataclass(frozen=True)
class AdaptiveThreshold(Rule):
    """Prunes what lies below a threshold H, and adapts H so that it takes about as many as wanted."""

    pruned: int | None
    threshold: float
    minimum: int  # of weights in every layer

    def begin(self, site: LayerSite) -> dict[str, Tensor]:
        return {"threshold": torch.tensor(self.threshold, dtype=torch.double)}

    def exchange(self, sites: Sequence[NonzerosSite], step: int) -> list[tuple[Tensor, int]]:
        threshold, total = float(sites[0].tracked["threshold"]), sum(site.nnz for site in sites)
        sizes = [scores.magnitude(site) for site in sites]
        below = ops.host.counts([score < threshold for score in sizes])
        removed = sum(max(0, min(n, site.nnz - self.minimum)) for n, site in zip(below, sites, strict=True))
        wanted = SHARE * total if self.pruned is None else self.pruned
        factor = 0.5 if removed > 1.1 * wanted else 2.0 if removed < 0.9 * wanted else 1.0
        for site in sites:
            site.tracked["threshold"] = torch.tensor(threshold * factor, dtype=torch.double)
        absent = [site.size - site.nnz for site in sites]
        removed = min(removed, sum(absent))
        stays = views.network.largest(sizes, [total - removed], self.minimum)
        left = ops.host.counts(stays)
        return list(zip(stays, apportion(left, absent, removed), strict=True))


@listed("DSR", paper="Mostafa, Wang, ICML", year=2019, changes="every 100, later 800 steps until 95 % of the run")
def dsr(
    request: Request,
    *,
    pruned: int | None = None,
    threshold: float = 1e-3,
    every: int | None = None,
    share: str | Distribution = "uniform",
    initialize: str = "rescale",
    min_per_layer: int = 0,
) -> Method:
    """DSR: Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic Sparse Reparameterization
    (Mostafa and Wang, ICML 2019, arXiv 1902.05967).

    At a change all layers drop their |w| < H, but for one weight of each layer; H is halved if that were more than
    1.1 N_p weights and doubled if they were fewer than 0.9 N_p. The layers then grow as many in all, in proportion to
    the weights that they have left, at random places that were absent before the change, at value 0 with a fresh
    optimizer state. Where all layers are nearly full, no more is dropped than can be grown. The first convolution and
    those of shortcuts stay dense; in a network without convolutions every linear layer is pruned. The classifier is
    pruned, as in the paper's text; the official code leaves that of the Wide ResNet dense.

    Args:
        pruned: N_p; by default 13 % of the active weights, what the paper's 20,000 are in a Wide ResNet-28-2 at 90 %.
            The official code takes them at every sparsity, and 600 for its small MNIST network.
        threshold: H at the first change, below which weights are dropped.
        every: steps between the first changes; doubled after 12.5 %, 40 % and 70 % of the run, none after 95 %. The
            paper's 100 in its 78,200 steps, in a shorter run less in proportion, down to 10.
        share: of the first pattern: "uniform", "er" or "erk".
        initialize: "rescale" multiplies the weights of the model by sqrt(dense fan-in / fan-in) of their row, so that
            outputs keep their scale; "keep" takes them as they are, as the paper does; "fan_in" draws new ones.
        min_per_layer: weights that stay in every layer; a change leaves one at least, as in the paper.
    """
    steps = request.steps
    request.check(
        threshold > 0 and (pruned is None or pruned >= 1),
        f"takes threshold > 0 and pruned >= 1, got {threshold} and {pruned}",
    )
    period = request.pace(every, PERIOD, FIRST * steps, CHANGES, COST)
    ends = [int(part * steps) for part in EPOCHS]
    starts = [1, *(end + 1 for end in ends)]
    return Method(
        request.name,
        constant(request.sparsity),
        request.often(Stages(tuple(Cadence(period * 2**i, starts[i], end) for i, end in enumerate(ends)))),
        start=drawn(share, initialize, scopes.without_first_and_shortcuts),
        view=replace(views.network, min_per_layer=min_per_layer),
        grow=growth.uniform_elsewhere(),
        rule=AdaptiveThreshold(pruned, threshold, max(1, min_per_layer)),
    )

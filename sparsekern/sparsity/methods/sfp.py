"""Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks (He et al., IJCAI 2018)."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ... import ops
from ...topology import nnz_at
from ..method import Method
from ..parts import scopes, scores, views
from ..parts.distributions import apportion
from ..parts.schedules import Cadence, constant, late
from ..rule import Rule
from ..scoring.start import Start
from ..sites.layer_site import LayerSite
from .registry import listed
from .request import MIN_CHANGES, Request


class SoftFilters(Rule):
    """Sets the filters of the smallest norms to 0 at every change, and leaves them in the network."""

    def __init__(self, sparsity: float, min_per_layer: int) -> None:
        self.sparsity, self.min_per_layer = sparsity, min_per_layer

    def masks(self, sites: Sequence[LayerSite], step: int, losses: Sequence[float]) -> None:
        filters = [site.shape[0] for site in sites]
        counts = apportion(filters, filters, nnz_at(self.sparsity, sum(filters)))
        norms = [scores.filter_norm(site) for site in sites]
        marks: list[Tensor] = views.filters_of_layers.largest(norms, counts, self.min_per_layer)
        ops.host.check_nan()
        for site, mark in zip(sites, marks, strict=True):
            weight = site.weight.clone()
            weight[~mark] = 0
            site.become(weight)
            site.facts = {"zeroed_filters": (~mark).count_nonzero()}


@listed(
    "SFP",
    paper="He, Kang, Dong, Fu, Yang, IJCAI",
    year=2018,
    storage="dense weights and optimizer state; nonzeros at the end",
    changes="at the end; zeros written every epoch",
    gradient="dense",
)
def sfp(request: Request, *, every: int | None = None, min_per_layer: int = 0) -> Method:
    """SFP: Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks (He et al., IJCAI 2018, arXiv
    1808.06866). After every epoch the filters of the smallest ||F||_2 of each layer are set to 0, and learn on.

    The zeros are written into the weights: no mask takes part in the forward or the backward pass, the network is
    dense until the end, and a filter that was zeroed grows again in the next epoch by its gradient and momentum, which
    are not reset (as in the official code). After the last step the filters are zeroed once more and pruned for good:
    the layers' patterns are then those of the filters that stay, and `sparsekern.shrink` removes the others.
    `sparsity` is the fraction P of the filters (output channels), the same in every layer. Convolutions are pruned, in
    a network without any all linear layers but the last; bias and batch norm of a filter are left alone. The numbers
    of the layers are rounded so that that of the network is exact; the code rounds each of them down. It also zeroes
    filters before the first epoch, and on ImageNet leaves the convolutions of shortcuts alone.

    Args:
        every: steps between zeroings, an epoch by default.
        min_per_layer: filters that stay in every layer.
    """
    steps, period = request.steps, request.epoch if every is None else every
    if steps // period < MIN_CHANGES:
        request.warn(f"zeroes filters fewer than three times in {steps} steps", MIN_CHANGES * period)
    return Method(
        request.name,
        late(constant(request.sparsity), steps),
        Cadence(period, start=period, stop=steps, last=steps),
        storage="master",
        start=Start(scope=scopes.convolutions),
        drop=scores.filter_norm,
        view=replace(views.filters_of_layers, min_per_layer=min_per_layer),
        rule=SoftFilters(request.sparsity, min_per_layer),
    )

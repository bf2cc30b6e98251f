"""One change of pattern over all layers: what is dropped and grown, or the masks of dense weights."""

import warnings
from collections.abc import Sequence
from math import floor

import torch
from torch import Tensor

from ..topology import kept
from . import views
from .distributions import apportion
from .method import Method
from .passes import ArmedStep
from .site import LayerSite, Site
from .start import roomy
from .views import View

Plan = list[tuple[Tensor, Tensor]]
Proposals = list[tuple[Tensor, Tensor]]


def plan(method: Method, sites: Sequence[Site], step: int, generator: torch.Generator, passes: ArmedStep) -> Plan:
    """What each site keeps (bool `[nnz]`) and grows (coordinates, int64) at `step`.

    Raises:
        ValueError: a score is NaN.
    """
    own = method.rule.exchange(sites, step)
    if own is not None:
        seeds = torch.randint(2**62, (len(sites),), generator=generator).tolist()
        keep, counts = [k for k, _ in own], [n for _, n in own]
        stays = keep if method.grow is not None and method.grow.from_dropped else [None] * len(sites)
        return _grown(method, views.layer, sites, keep, counts, _propose(method, sites, counts, stays, seeds, passes))
    targets = _targets(method, sites, step, generator)
    counts = _exchanged(method, targets, step)
    seeds = torch.randint(2**62, (len(sites),), generator=generator).tolist()
    proposals = None
    if method.grow is not None and not method.grow.from_dropped:
        quotas = method.grow.quotas(sites, counts, method.view.per_layer)
        proposals = _propose(method, sites, quotas, [None] * len(sites), seeds, passes)
        counts = _limit(method, counts, [len(scores) for _, scores in proposals])
    keep = _keep(method, sites, targets, counts)
    if method.grow is None:
        none = [site.active.coordinates()[:0] for site in sites]
        return list(zip(keep, none, strict=True))
    if proposals is None:
        quotas = method.grow.quotas(sites, counts, method.view.per_layer)
        proposals = _propose(method, sites, quotas, keep, seeds, passes)
    return _grown(method, method.view, sites, keep, counts, proposals)


def _grown(
    method: Method,
    view: View,
    sites: Sequence[Site],
    keep: Sequence[Tensor],
    counts: Sequence[int],
    proposals: Proposals,
) -> Plan:
    """What is kept, and the highest `counts` of the proposals."""
    chosen = view.largest([scores for _, scores in proposals], counts)
    grow = [coordinates[mark] for (coordinates, _), mark in zip(proposals, chosen, strict=True)]
    if method.grow is not None and method.grow.revives:
        grow = [_revive(site, k, g) for site, k, g in zip(sites, keep, grow, strict=True)]
    return list(zip(keep, grow, strict=True))


def masks(
    method: Method, sites: Sequence[LayerSite], step: int, generator: torch.Generator, held: bool
) -> list[Tensor] | None:
    """Which weights of each site take part from `step` on, where pruned ones are kept: bool of the weights' shapes;
    None if that does not change.

    Raises:
        ValueError: a score is NaN.
    """
    own = method.rule.masks(sites, step, held)
    if own is not None or held:
        return own
    shapes = [site.shape for site in sites]
    total = kept(method.sparsity(step), sum(method.view.units(shape) for shape in shapes))
    extents = [method.view.extent(shape) for shape in shapes]
    counts = method.share(extents, total, generator) if method.view.per_layer else _sum_first(total, len(sites))
    marks = method.view.largest([method.drop(site) for site in sites], counts, method.min_per_layer)
    return [method.view.weights(mark, shape) for mark, shape in zip(marks, shapes, strict=True)]


def _targets(method: Method, sites: Sequence[Site], step: int, generator: torch.Generator) -> list[int]:
    """Active weights of each site after the change; over the network only the sum counts."""
    current = [site.nnz for site in sites]
    if method.sparsity(step) == method.sparsity(method.when.before(step)):
        return current
    total = kept(method.sparsity(step), sum(site.size for site in sites))
    if not method.view.per_layer:
        return _sum_first(total, len(sites))
    shapes = [site.shape for site in sites]
    targets = method.share(shapes, total, generator)
    return targets if method.grow is not None else apportion(targets, current, total)  # no layer gains weights


def _exchanged(method: Method, targets: Sequence[int], step: int) -> list[int]:
    rate = method.rate(step)
    if method.view.per_layer:
        return [floor(rate * target + 1e-9) for target in targets]
    return _sum_first(floor(rate * sum(targets) + 1e-9), len(targets))


def _limit(method: Method, counts: Sequence[int], available: Sequence[int]) -> list[int]:
    """K = min(K, candidates), so that the number of weights does not change."""
    if method.view.per_layer:
        return [min(k, n) for k, n in zip(counts, available, strict=True)]
    return _sum_first(min(sum(counts), sum(available)), len(counts))


def _sum_first(total: int, sites: int) -> list[int]:
    """Counts of a view in which only the sum matters."""
    return [total] + [0] * (sites - 1)


def _keep(method: Method, sites: Sequence[Site], targets: Sequence[int], counts: Sequence[int]) -> list[Tensor]:
    scores = [method.drop(site) for site in sites]
    keep = [target - count for target, count in zip(targets, counts, strict=True)]
    return method.view.largest(scores, keep, method.min_per_layer)


def _propose(
    method: Method,
    sites: Sequence[Site],
    quotas: Sequence[int],
    keep: Sequence[Tensor | None],
    seeds: Sequence[int],
    passes: ArmedStep,
) -> Proposals:
    if method.grow is None:
        raise ValueError(f"{method.name} does not grow")
    return method.grow.candidates(sites, quotas, keep, seeds, passes)


def _revive(site: Site, keep: Tensor, grow: Tensor) -> Tensor:
    """Marks what was dropped and chosen again as kept; returns what is new."""
    active = site.active.coordinates()
    if not active.numel():
        return grow
    place = torch.searchsorted(active, grow).clamp_(max=active.numel() - 1)
    old = active[place] == grow
    keep[place[old]] = True
    return grow[~old]


def capacities(method: Method, sites: Sequence[Site], needed: Sequence[int], step: int) -> list[int]:
    """Room for the `needed` weights of each site after the change at `step`. It stays as it is while they fit.

    A method that prunes as it trains gives room back, in all sites at once: when half of it is empty, or more where
    four times would not do, and at its final sparsity. Every time costs compiled code a compilation, and
    `torch.compile` gives up after eight."""
    room = [site.active.capacity for site in sites]
    if not method.moves_counts and method.sparsity(step) > method.sparsity(0):
        final = method.sparsity(2**40)
        if method.sparsity(step) == final or sum(needed) * max(2.0, (1 - final) ** -0.25) <= sum(room):
            return list(needed)
    total = sum(site.nnz for site in sites)
    return [
        capacity if n <= capacity else roomy(n, site.size, total, len(sites))
        for site, n, capacity in zip(sites, needed, room, strict=True)
    ]


def warn_of_collapse(sites: Sequence[LayerSite]) -> None:
    for site in sites:
        if site.nnz == 0:
            warnings.warn(f"layer collapse: {site.name} has no weight left; min_per_layer keeps some", stacklevel=4)

"""One change of pattern over all layers: what is dropped and grown, or the masks of dense weights."""

import warnings
from collections.abc import Sequence
from math import floor

import torch
from torch import Tensor

from ..topology import kept
from .distributions import apportion
from .method import Method
from .passes import ArmedStep
from .site import LayerSite, Site

Plan = list[tuple[Tensor, Tensor]]


def plan(method: Method, sites: Sequence[Site], step: int, generator: torch.Generator, passes: ArmedStep) -> Plan:
    """What each site keeps (bool `[nnz]`) and grows (coordinates, int64) at `step`.

    Raises:
        ValueError: a score is NaN.
    """
    targets = _targets(method, sites, step, generator)
    counts = _exchanged(method, targets, step)
    seeds = torch.randint(2**62, (len(sites),), generator=generator).tolist()
    proposals = None
    if method.grow is not None and not method.grow.from_dropped:
        proposals = _propose(method, sites, counts, [None] * len(sites), seeds, passes)
        counts = _limit(method, counts, [len(scores) for _, scores in proposals])
    keep = _keep(method, sites, targets, counts)
    if method.grow is None:
        none = [site.active.coordinates()[:0] for site in sites]
        return list(zip(keep, none, strict=True))
    if proposals is None:
        proposals = _propose(method, sites, counts, keep, seeds, passes)
    chosen = method.view.largest([scores for _, scores in proposals], counts)
    grow = [coordinates[mark] for (coordinates, _), mark in zip(proposals, chosen, strict=True)]
    if method.grow.revives:
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
    counts = method.share(shapes, total, generator) if method.view.per_layer else _sum_first(total, len(sites))
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
    counts: Sequence[int],
    keep: Sequence[Tensor | None],
    seeds: Sequence[int],
    passes: ArmedStep,
) -> list[tuple[Tensor, Tensor]]:
    growth = method.grow
    if growth is None:
        raise ValueError(f"{method.name} does not grow")
    quotas = growth.quotas(sites, counts, method.view.per_layer)
    return growth.candidates(sites, quotas, keep, seeds, passes)


def _revive(site: Site, keep: Tensor, grow: Tensor) -> Tensor:
    """Marks what was dropped and chosen again as kept; returns what is new."""
    active = site.active.coordinates()
    if not active.numel():
        return grow
    place = torch.searchsorted(active, grow).clamp_(max=active.numel() - 1)
    old = active[place] == grow
    keep[place[old]] = True
    return grow[~old]


def warn_of_collapse(sites: Sequence[LayerSite]) -> None:
    for site in sites:
        if site.nnz == 0:
            warnings.warn(f"layer collapse: {site.name} has no weight left; min_per_layer keeps some", stacklevel=4)

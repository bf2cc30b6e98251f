"""Chooses for one change of pattern, over all layers, what is dropped and grown, or the masks of dense weights."""

import warnings
from collections.abc import Sequence
from math import floor
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from ... import ops
from ...topology import nnz_at
from ..growth.gradients import ArmedStep
from ..growth.growth import Remaining, places
from ..method import Method
from ..parts import views
from ..parts.distributions import apportion
from ..parts.schedules import final
from ..parts.scores import magnitude
from ..parts.views import View, summed
from ..sites.capacity import capacity_for_growth
from ..sites.layer_site import LayerSite
from ..sites.nonzeros import NonzerosSite

Proposals = list[tuple[Tensor, Tensor]]


class Rewiring(NamedTuple):
    """One site's part of a change.

    keep: which active weights stay, bool `[nnz]` or, where none grow, a bitmask of one row.
    grow: int64 flat coordinates of new weights.
    kept: how many entries of `keep` are True.
    """

    keep: Tensor
    grow: Tensor
    kept: int


def drop_and_grow(
    method: Method, sites: Sequence[NonzerosSite], step: int, generator: torch.Generator, gradients: ArmedStep
) -> list[Rewiring]:
    """Returns what the sites exchange at `step`. The host waits for a device as rarely as it can: never for a single
    site, and not at all for counts that the scores do not change.

    Raises:
        ValueError: a score is NaN.
    """
    with ops.host.deferred_checks():
        return _drop_and_grow(method, sites, step, generator, gradients)


def _drop_and_grow(
    method: Method, sites: Sequence[NonzerosSite], step: int, generator: torch.Generator, gradients: ArmedStep
) -> list[Rewiring]:
    own = method.rule.exchange(sites, step)
    if own is not None:
        seeds = torch.randint(2**62, (len(sites),), generator=generator).tolist()
        keep, counts = [k for k, _ in own], [n for _, n in own]
        kept = ops.host.counts(keep)
        stays = _stays(keep, kept) if method.grow is not None and method.grow.from_dropped else [None] * len(sites)
        proposals = _propose(method, sites, counts, stays, seeds, gradients)
        return _grown(method, views.layer, sites, keep, kept, counts, proposals)
    if method.view.structure is not None and method.grow is None:
        keep = _structured(method, sites, step, generator)
        return [
            Rewiring(k, k.new_empty(0, dtype=torch.int64), n) for k, n in zip(keep, ops.host.counts(keep), strict=True)
        ]
    targets = _targets(method, sites, step, generator)
    counts = _exchanged(method, targets, step)
    seeds = torch.randint(2**62, (len(sites),), generator=generator).tolist()
    proposals = None
    if method.grow is not None and not method.grow.from_dropped:
        quotas = method.grow.quotas(sites, counts, method.view.per_layer)
        proposals = _propose(method, sites, quotas, [None] * len(sites), seeds, gradients)
        counts = _limit(method, counts, [len(scores) for _, scores in proposals])
    if method.grow is None:
        return _dropped(method, sites, targets)
    keep, kept = _keep(method, sites, targets, counts)
    if proposals is None:
        kept = ops.host.counts(keep) if kept is None else kept
        quotas = method.grow.quotas(sites, counts, method.view.per_layer)
        proposals = _propose(method, sites, quotas, _stays(keep, kept), seeds, gradients)
    return _grown(method, method.view, sites, keep, kept, counts, proposals)


def _dropped(method: Method, sites: Sequence[NonzerosSite], targets: Sequence[int]) -> list[Rewiring]:
    """Returns what is kept where nothing grows; on the CPU in bits, since the network may still be dense."""
    if _on_cpu(sites):
        keep, kept = _bits(method, sites, targets)
    else:
        keep, known = _keep(method, sites, targets, [0] * len(sites))
        kept = ops.host.counts(keep) if known is None else known
    none = [site.active.row_ptr.new_empty(0, dtype=torch.int64) for site in sites]
    return list(map(Rewiring, keep, none, kept))


def _grown(
    method: Method,
    view: View,
    sites: Sequence[NonzerosSite],
    keep: Sequence[Tensor],
    kept: Sequence[int] | None,
    counts: Sequence[int],
    proposals: Proposals,
) -> list[Rewiring]:
    """Returns what is kept and the `counts` proposals that score highest. `kept`: how many weights each site keeps, if
    the host knows."""
    scores = [scores for _, scores in proposals]
    chosen = view.largest(scores, counts)
    taken = view.taken(scores, counts)
    told = iter(ops.host.counts([*([] if kept is not None else keep), *([] if taken is not None else chosen)]))
    kept = [next(told) for _ in sites] if kept is None else kept
    taken = list(told) if taken is None else taken
    grow = [c[places(mark, n)] for (c, _), mark, n in zip(proposals, chosen, taken, strict=True)]
    if method.grow is not None and method.grow.revives:
        return _revived(sites, keep, grow, kept)
    return list(map(Rewiring, keep, grow, kept))


def _stays(keep: Sequence[Tensor], kept: Sequence[int]) -> list[Remaining | None]:
    return list(zip(keep, kept, strict=True))


def masks(
    method: Method, sites: Sequence[LayerSite], step: int, losses: Sequence[float], generator: torch.Generator
) -> list[Tensor]:
    """Returns which weights of each site take part from `step` on, where pruned ones are kept: bool of the weights'
    shapes, or bitmasks `[rows, segments]`. Empty: nothing changes.

    Raises:
        ValueError: a score is NaN.
    """
    with ops.host.deferred_checks():
        return _masks(method, sites, step, losses, generator)


def _masks(
    method: Method, sites: Sequence[LayerSite], step: int, losses: Sequence[float], generator: torch.Generator
) -> list[Tensor]:
    own = method.rule.masks(sites, step, losses)
    if own is not None:
        return own
    view, shapes = method.view, [site.shape for site in sites]
    total = nnz_at(method.sparsity(step), sum(view.units(shape) for shape in shapes))
    counts = view.counts(shapes, total, generator)
    if view.structure is not None:
        return view.masks([method.drop(site) for site in sites], counts, shapes)
    if not view.filters and _on_cpu(sites):
        return _bits(method, sites, counts)[0]
    marks = _highest(method, _scores(method, sites), counts)
    return [view.weights(mark, shape) for mark, shape in zip(marks, shapes, strict=True)]


def _structured(method: Method, sites: Sequence[NonzerosSite], step: int, generator: torch.Generator) -> list[Tensor]:
    """Returns which active weights stay where they go together: the scores of all weights are compared, absent ones
    last."""
    view, shapes = method.view, [site.shape for site in sites]
    units = [view.units(shape) for shape in shapes]
    counts = view.counts(shapes, nnz_at(method.sparsity(step), sum(units)), generator)
    if view.per_layer:  # no layer gains weights
        there = [site.nnz * n // max(1, site.size) for site, n in zip(sites, units, strict=True)]
        counts = apportion(counts, there, sum(counts))
    places = [site.active.coordinates() for site in sites]
    scores = []
    for site, place in zip(sites, places, strict=True):
        own = method.drop(site)
        scores.append(own.new_full((site.size,), -torch.inf).index_copy_(0, place, own))
    return [mask.flatten()[place] for mask, place in zip(view.masks(scores, counts, shapes), places, strict=True)]


def _targets(method: Method, sites: Sequence[NonzerosSite], step: int, generator: torch.Generator) -> list[int]:
    """Returns how many active weights each site has after the change; over the network only the sum counts."""
    current = [site.nnz for site in sites]
    if method.sparsity(step) == method.sparsity(method.when.before(step)):
        return current
    total = nnz_at(method.sparsity(step), sum(site.size for site in sites))
    targets = method.view.counts([site.shape for site in sites], total, generator)
    if method.grow is not None or not method.view.per_layer:
        return targets
    return apportion(targets, current, total)  # no layer gains weights


def _exchanged(method: Method, targets: Sequence[int], step: int) -> list[int]:
    rate = method.grow.rate(step) if method.grow is not None else 0.0
    if method.view.per_layer:
        return [floor(rate * target + 1e-9) for target in targets]
    return summed(floor(rate * sum(targets) + 1e-9), len(targets))


def _limit(method: Method, counts: Sequence[int], available: Sequence[int]) -> list[int]:
    """Limits K to the number of candidates, so that the number of weights does not change."""
    if method.view.per_layer:
        return [min(k, n) for k, n in zip(counts, available, strict=True)]
    return summed(min(sum(counts), sum(available)), len(counts))


def _keep(
    method: Method, sites: Sequence[NonzerosSite], targets: Sequence[int], counts: Sequence[int]
) -> tuple[list[Tensor], list[int] | None]:
    """Returns what stays in each site, and how many weights that is unless it depends on the scores."""
    keep = [target - count for target, count in zip(targets, counts, strict=True)]
    scores = _scores(method, sites)
    taken = method.view.taken(scores, keep, method.view.min_per_layer)
    return _highest(method, scores, keep), taken


def _scores(method: Method, sites: Sequence[LayerSite]) -> list[Tensor]:
    """Returns the scores by `Method.drop`; of magnitudes the weights, of which no copy is made."""
    return [site.weight if method.drop is magnitude else method.drop(site) for site in sites]


def _highest(method: Method, scores: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    return method.view.largest(scores, counts, method.view.min_per_layer, method.drop is magnitude)


def _on_cpu(sites: Sequence[LayerSite]) -> bool:
    return all(site.active.device.type == "cpu" for site in sites)


def _bits(method: Method, sites: Sequence[LayerSite], counts: Sequence[int]) -> tuple[list[Tensor], list[int]]:
    """Returns what `_highest` marks in bitmasks, and how many that is in each site."""
    view, scores = method.view, _scores(method, sites)
    return view.bits(scores, counts, view.min_per_layer, method.drop is magnitude)


def _propose(
    method: Method,
    sites: Sequence[NonzerosSite],
    quotas: Sequence[int],
    keep: Sequence[Remaining | None],
    seeds: Sequence[int],
    gradients: ArmedStep,
) -> Proposals:
    if method.grow is None:
        raise ValueError(f"{method.name} does not grow")
    return method.grow.candidates(sites, quotas, keep, seeds, gradients)


def _revived(
    sites: Sequence[NonzerosSite], keep: Sequence[Tensor], grow: Sequence[Tensor], kept: Sequence[int]
) -> list[Rewiring]:
    """Keeps what was dropped and chosen again, with its value."""
    again, stays = [], []
    for site, mark, chosen in zip(sites, keep, grow, strict=True):
        place = site.active.positions(chosen).long()
        again.append(place >= 0)
        # What is new writes behind the end.
        place = torch.where(again[-1], place, site.nnz)
        stays.append(torch.cat([mark, mark.new_zeros(1)]).index_fill_(0, place, True)[:-1])
    returned = ops.host.counts(again)
    new = [g[places(~old, len(g) - n)] for g, old, n in zip(grow, again, returned, strict=True)]
    return list(map(Rewiring, stays, new, map(add, kept, returned)))


def capacities(method: Method, sites: Sequence[NonzerosSite], needed: Sequence[int], step: int) -> list[int]:
    """Returns the capacity of each site for its `needed` weights after the change at `step`. It stays as it is while
    they fit.

    A method that prunes as it trains gives room back, in all sites at once: when half of it is empty, or more where
    four times would not do, and at its final sparsity. Every time costs compiled code a compilation, and
    `torch.compile` gives up after eight."""
    held = [site.active.capacity for site in sites]
    if not method.moves_counts and method.sparsity(step) > method.sparsity(0):
        last = final(method.sparsity)
        if method.sparsity(step) == last or sum(needed) * max(2.0, (1 - last) ** -0.25) <= sum(held):
            return list(needed)
    total = sum(site.nnz for site in sites)
    return [
        capacity if n <= capacity else capacity_for_growth(n, site.size, total, len(sites))
        for site, n, capacity in zip(sites, needed, held, strict=True)
    ]


def warn_of_collapse(sites: Sequence[LayerSite], method: Method) -> None:
    way = "; min_per_layer= keeps some" if method.has_sparsity else ""
    for site in sites:
        if site.nnz == 0:
            warnings.warn(f"layer collapse: {site.name} has no weight left{way}", stacklevel=5)

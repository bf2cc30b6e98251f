"""Growth: which absent weights may come to life, and how they are ranked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import floor

import torch
from torch import Tensor

from ... import ops
from .. import parallel
from ..parts.distributions import apportion
from ..parts.schedules import ZERO, Schedule, final
from ..scoring.linearised import flows
from ..sites.site import Site
from .gradients import ArmedStep

Candidates = list[tuple[Tensor, Tensor]]
Kept = tuple[Tensor, int]
Propose = Callable[[Sequence[Site], Sequence[int], Sequence[Kept | None], Sequence[int], ArmedStep], Candidates]
# Distributions over a layer's rows, g `[rows]`, and columns, f `[cols]`, not normalised; of all sites at once.
Heuristic = Callable[[Sequence[Site], Sequence[int], ArmedStep], Sequence[tuple[Tensor, ...]]]


@dataclass(frozen=True)
class Growth:
    """`candidates(sites, quotas, keep, seeds, gradients)`: for each site flat coordinates `[m]`, m <= its quota, and
    their scores `[m]`, highest first choice. `keep` marks what stays of the active weights (`[nnz]`, and how many these
    are; None: all), `gradients` are the backward passes that they may look at.

    Attributes:
        rate: fraction of the active weights exchanged at a change.
        armed: the layers record (h, delta) in the step of the change.
        from_dropped: what is dropped in the same round is a candidate too; otherwise only what was absent before it.
        revives: a candidate that was just dropped keeps its value and optimizer state (RigL).
        replaces_step: the change takes the place of the optimizer's step (RigL).
        multiplier: the candidates are a subset, this many times the weights to grow, shared by the layers in
            proportion to their size; None: every layer has as many candidates as it could grow.
        batches: how many batches the gradients are of; 1: that of the armed step.
        inputs: it asks what the model is called with.
    """

    candidates: Propose
    rate: Schedule = ZERO
    armed: bool = False
    from_dropped: bool = True
    revives: bool = False
    replaces_step: bool = False
    multiplier: float | None = None
    batches: int = 1
    inputs: bool = False

    def __post_init__(self) -> None:
        for rate in (self.rate(0), final(self.rate)):
            if not 0 <= rate <= 1:
                raise ValueError(f"rate must lie in [0, 1], got {rate}")

    def quotas(self, sites: Sequence[Site], counts: Sequence[int], per_layer: bool) -> list[int]:
        """Returns how many candidates each site proposes when `counts` weights are to grow."""
        total = sum(counts)
        if self.multiplier is None:
            return list(counts) if per_layer else [total] * len(sites)
        absent = [site.size - site.nnz for site in sites]
        return apportion([site.size for site in sites], absent, floor(self.multiplier * total))


def places(mark: Tensor, n: int) -> Tensor:
    """Returns the indices of the `n` entries of a bool vector that are True, ascending; the host does not ask
    how many."""
    if n == 0:
        return mark.new_empty(0, dtype=torch.int64)
    # On a GPU PyTorch's operator of static size stops at 31 bits.
    return (mark.nonzero_static(size=n) if mark.numel() < 2**31 else mark.nonzero()).flatten()


def _each(
    candidates: Callable[[Site, int, Kept | None, int], tuple[Tensor, Tensor]],
    sites: Sequence[Site],
    quotas: Sequence[int],
    keep: Sequence[Kept | None],
    seeds: Sequence[int],
    gradients: ArmedStep,
) -> Candidates:
    """Asks every site by itself."""
    return [candidates(*own) for own in zip(sites, quotas, keep, seeds, strict=True)]


def _by_dense_gradient(site: Site, n: int, keep: Kept | None, seed: int) -> tuple[Tensor, Tensor]:
    scores = site.dense_gradient().abs().flatten()
    active = site.active.coordinates()
    scores[active] = -torch.inf if keep is None else torch.where(keep[0], -torch.inf, scores[active])
    n = min(n, site.size - (site.nnz if keep is None else keep[1]))
    coordinates = places(ops.topk_mask([scores], n, False)[0], n)
    return coordinates, scores[coordinates]


def dense_gradient(rate: Schedule = ZERO, *, from_dropped: bool = True, replaces_step: bool = False) -> Growth:
    """Grows by the largest |dL/dW| among the absent weights (RigL). The dense gradient exists only during the
    change."""
    return Growth(
        partial(_each, _by_dense_gradient),
        rate,
        armed=True,
        from_dropped=from_dropped,
        revives=from_dropped,
        replaces_step=replaces_step,
    )


def _uniformly(site: Site, n: int, keep: Kept | None, seed: int) -> tuple[Tensor, Tensor]:
    topology = site.active
    row_ptr, col, nnz = topology.row_ptr, topology.col, site.nnz
    if keep is not None:
        stays, nnz = keep
        none = stays.new_empty(0, dtype=torch.int64)
        row_ptr, col, _ = ops.rewire(row_ptr, col, stays, none, topology.capacity, topology.cols)
    rows, cols = torch.ones(topology.rows, device=col.device), torch.ones(topology.cols, device=col.device)
    n = min(n, site.size - nnz)
    coordinates, _ = ops.guided_sample(rows, cols, row_ptr, col, n, seed)
    return coordinates, torch.zeros(n, device=col.device)


def uniform(rate: Schedule = ZERO) -> Growth:
    """Grows absent weights, every one equally likely (SET)."""
    return Growth(partial(_each, _uniformly), rate)


def uniform_elsewhere(rate: Schedule = ZERO) -> Growth:
    """Grows as `uniform`, but not where a weight was dropped in the same round (DSR)."""
    return Growth(partial(_each, _uniformly), rate, from_dropped=False)


def uniform_by_size(rate: Schedule = ZERO) -> Growth:
    """Grows as `uniform`, the layers growing in proportion to their size (SET as the GraBo paper runs it)."""
    return Growth(partial(_each, _uniformly), rate, from_dropped=False, multiplier=1)


def sampled_gradient(heuristic: Heuristic, multiplier: float, batches: int = 1, rate: Schedule = ZERO) -> Growth:
    """Grows by the largest |dL/dW| within a sampled subset of the absent weights (GraBo, algorithm 1).

    Args:
        heuristic: guides the sampling.
        multiplier: size of the subset in units of the weights to grow, mu.
        batches: how many batches dL/dW, and what the heuristic looks at, is summed over; 1: that of the armed step.
        rate: fraction of the active weights exchanged at a change.

    Raises:
        ValueError: `multiplier` or `batches` is below 1.
    """
    if multiplier < 1:
        raise ValueError(f"multiplier must be at least 1, got {multiplier}")
    if batches < 1:
        raise ValueError(f"batches must be at least 1, got {batches}")
    return Growth(
        partial(_sampled, heuristic),
        rate,
        armed=batches == 1,
        from_dropped=False,
        multiplier=multiplier,
        batches=batches,
        inputs=heuristic is synaptic_flow,
    )


def guided(grow: Growth | None, heuristic: Heuristic) -> Growth:
    """Returns the `sampled_gradient` that is like `grow`, but guided by another heuristic."""
    if grow is None or grow.multiplier is None:
        raise ValueError("only growth by sampled gradients is guided")
    return sampled_gradient(heuristic, grow.multiplier, grow.batches, grow.rate)


def _sampled(
    heuristic: Heuristic,
    sites: Sequence[Site],
    quotas: Sequence[int],
    keep: Sequence[Kept | None],
    seeds: Sequence[int],
    gradients: ArmedStep,
) -> Candidates:
    drawn = []
    guides = heuristic(sites, seeds, gradients)
    for site, (rows, cols), n, seed in zip(sites, guides, quotas, seeds, strict=True):
        topology = site.active
        coordinates, rest = ops.guided_sample(rows, cols, topology.row_ptr, topology.col, n, seed)
        site.facts["sampled_uniformly"] = rest
        drawn.append(coordinates)
    found = gradients.total(sites, lambda i, site: (site.probe.gradient_at(drawn[i]),))
    return [(coordinates, g.abs()) for coordinates, (g,) in zip(drawn, found, strict=True)]


def flat(sites: Sequence[Site], seeds: Sequence[int], gradients: ArmedStep) -> list[tuple[Tensor, ...]]:
    """Weighs every row and every column alike (GSE-random)."""
    shapes = [(site.active.rows, site.active.cols, site.active.device) for site in sites]
    return [(torch.ones(rows, device=device), torch.ones(cols, device=device)) for rows, cols, device in shapes]


def gradient_bound(sites: Sequence[Site], seeds: Sequence[int], gradients: ArmedStep) -> list[tuple[Tensor, ...]]:
    """Returns g_b = sum |delta_b|, f_a = sum |h_a|: their product bounds |dL/dW| (GraBo, eq. 8 and appendix)."""
    return gradients.total(sites, lambda i, site: (site.probe.row_weight(), site.probe.col_weight()))


def gradient_estimate(sites: Sequence[Site], seeds: Sequence[int], gradients: ArmedStep) -> list[tuple[Tensor, ...]]:
    """Returns g_b = |sum xi delta_b|, f_a = |sum xi h_a| with one sign xi = +-1 for both, drawn for every row of the
    batch: the expectation of their product without the bars is dL/dW (Heddes et al., GraEst). Ranks draw signs of their
    own: equal ones would add products of different samples to the expectation."""
    generators = [torch.Generator().manual_seed(seed + parallel.rank()) for seed in seeds]

    def sums(i: int, site: Site) -> tuple[Tensor, Tensor]:
        return site.probe.signed_sums(lambda n: 2.0 * torch.empty(n).bernoulli_(0.5, generator=generators[i]) - 1)

    return [tuple(weight.abs() for weight in pair) for pair in gradients.total(sites, sums)]


def synaptic_flow(sites: Sequence[Site], seeds: Sequence[int], gradients: ArmedStep) -> Sequence[tuple[Tensor, ...]]:
    """Returns g = efferent, f = afferent flow of the absolute weights (GraBo, eq. 3); the mean over the ranks, whose
    statistics of batch norm differ until the next forward pass."""
    found = flows(gradients.model, [site.module for site in sites], gradients.inputs())
    return [tuple(map(parallel.mean, flow)) for flow in found]

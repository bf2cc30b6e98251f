"""Grows the absent weights with the largest gradients in a sampled subset (GraBo and its variants)."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ... import ops
from ...nn.probe import Needs
from .. import parallel
from ..parts.schedules import ZERO, Schedule
from ..scoring.linearised import flows
from ..sites.nonzeros import NonzerosSite
from .gradients import ArmedStep
from .growth import Candidates, Growth, Remaining

# Distributions over a layer's rows, g `[rows]`, and columns, f `[cols]`, not normalised; of all sites at once.
Heuristic = Callable[[Sequence[NonzerosSite], Sequence[int], ArmedStep], Sequence[tuple[Tensor, ...]]]


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
        needs=_NEEDS.get(heuristic, "pairs"),
        from_dropped=False,
        multiplier=multiplier,
        batches=batches,
        inputs=heuristic is synaptic_flow,
        guided=heuristic is not flat,
    )


def guided(grow: Growth | None, heuristic: Heuristic) -> Growth:
    """Returns the `sampled_gradient` that is like `grow`, but guided by another heuristic."""
    if grow is None or grow.multiplier is None:
        raise ValueError("only growth by sampled gradients is guided")
    return sampled_gradient(heuristic, grow.multiplier, grow.batches, grow.rate)


def _sampled(
    heuristic: Heuristic,
    sites: Sequence[NonzerosSite],
    quotas: Sequence[int],
    keep: Sequence[Remaining | None],
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
    found = gradients.total(sites, lambda i, site: (site.probe.gradient_at(drawn[i]),), "gradient")
    return [(coordinates, g.abs()) for coordinates, (g,) in zip(drawn, found, strict=True)]


def flat(sites: Sequence[NonzerosSite], seeds: Sequence[int], gradients: ArmedStep) -> list[tuple[Tensor, ...]]:
    """Weighs every row and every column alike (GSE-random)."""
    shapes = [(site.active.rows, site.active.cols, site.active.device) for site in sites]
    return [(torch.ones(rows, device=device), torch.ones(cols, device=device)) for rows, cols, device in shapes]


def gradient_bound(
    sites: Sequence[NonzerosSite], seeds: Sequence[int], gradients: ArmedStep
) -> list[tuple[Tensor, ...]]:
    """Returns g_b = sum |delta_b|, f_a = sum |h_a|: their product bounds |dL/dW| (GraBo, eq. 8 and appendix)."""
    return gradients.total(sites, lambda i, site: (site.probe.row_weight(), site.probe.col_weight()), "bound")


def gradient_estimate(
    sites: Sequence[NonzerosSite], seeds: Sequence[int], gradients: ArmedStep
) -> list[tuple[Tensor, ...]]:
    """Returns g_b = |sum xi delta_b|, f_a = |sum xi h_a| with one sign xi = +-1 for both, drawn for every row of the
    batch: the expectation of their product without the bars is dL/dW (Heddes et al., GraEst). Ranks draw signs of their
    own: equal ones would add products of different samples to the expectation."""
    generators = [torch.Generator().manual_seed(seed + parallel.rank()) for seed in seeds]

    def sums(i: int, site: NonzerosSite) -> tuple[Tensor, Tensor]:
        return site.probe.signed_sums(lambda n: 2.0 * torch.empty(n).bernoulli_(0.5, generator=generators[i]) - 1)

    return [tuple(weight.abs() for weight in pair) for pair in gradients.total(sites, sums)]


def synaptic_flow(
    sites: Sequence[NonzerosSite], seeds: Sequence[int], gradients: ArmedStep
) -> Sequence[tuple[Tensor, ...]]:
    """Returns g = efferent, f = afferent flow of the absolute weights (GraBo, eq. 3); the mean over the ranks, whose
    statistics of batch norm differ until the next forward pass."""
    found = flows(gradients.model, [site.module for site in sites], gradients.inputs())
    return [tuple(map(parallel.mean, flow)) for flow in found]


_NEEDS: dict[Heuristic, Needs] = {flat: "gradient", synaptic_flow: "gradient", gradient_bound: "bound"}

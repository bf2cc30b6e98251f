"""Growth: it proposes absent weights as candidates, and ranks them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor

from ...nn.probe import Needs
from ..parts.distributions import apportion
from ..parts.schedules import ZERO, Schedule, final
from ..sites.nonzeros import NonzerosSite
from .gradients import ArmedStep

Candidates = list[tuple[Tensor, Tensor]]
Remaining = tuple[Tensor, int]
Propose = Callable[
    [Sequence[NonzerosSite], Sequence[int], Sequence[Remaining | None], Sequence[int], ArmedStep], Candidates
]


@dataclass(frozen=True)
class Growth:
    """Says which absent weights may grow, and which of them come first.

    Attributes:
        candidates: `candidates(sites, quotas, keep, seeds, gradients)` returns for each site flat coordinates, int64
            `[m]` with m at most its quota, and their scores `[m]`: the highest grow first. `keep` marks which active
            weights stay (bool `[nnz]`, and how many these are; None: all); `gradients` gives the growth gradients.
        rate: fraction of the active weights exchanged at a change.
        armed: the layers record the step of the change.
        needs: what of that step the scores are made of; see `nn.probe.Needs`.
        from_dropped: what is dropped in the same round is a candidate too; otherwise only what was absent before it.
        revives: a candidate that was just dropped keeps its value and optimizer state (RigL).
        replaces_step: the change takes the place of the optimizer's step (RigL).
        multiplier: the candidates are a subset, this many times the weights to grow, shared by the layers in
            proportion to their size; None: every layer has as many candidates as it could grow.
        batches: how many batches the gradients are of; 1: that of the armed step.
        inputs: it asks what the model is called with.
        guided: it asks what enters and leaves the products of the layers, beyond the gradients of their weights.
        by_row: proposes, in the place of `candidates`, as many weights in each row as the row has lost; None: there is
            no such way.
    """

    candidates: Propose
    rate: Schedule = ZERO
    armed: bool = False
    needs: Needs = "pairs"
    from_dropped: bool = True
    revives: bool = False
    replaces_step: bool = False
    multiplier: float | None = None
    batches: int = 1
    inputs: bool = False
    guided: bool = False
    by_row: Propose | None = None

    def __post_init__(self) -> None:
        for rate in (self.rate(0), final(self.rate)):
            if not 0 <= rate <= 1:
                raise ValueError(f"rate must lie in [0, 1], got {rate}")

    def quotas(self, sites: Sequence[NonzerosSite], counts: Sequence[int], per_layer: bool) -> list[int]:
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


def each_by_itself(
    candidates: Callable[[NonzerosSite, int, Remaining | None, int], tuple[Tensor, Tensor]],
    sites: Sequence[NonzerosSite],
    quotas: Sequence[int],
    keep: Sequence[Remaining | None],
    seeds: Sequence[int],
    gradients: ArmedStep,
) -> Candidates:
    """Asks every site by itself, where it has something to grow."""
    found = []
    for site, n, left, seed in zip(sites, quotas, keep, seeds, strict=True):
        none = site.active.row_ptr.new_empty(0, dtype=torch.int64), site.weight.new_empty(0)
        found.append(candidates(site, n, left, seed) if n else none)
    return found


def refilled(scores: Tensor, site: NonzerosSite, keep: Remaining | None) -> tuple[Tensor, Tensor]:
    """Returns the entries of the highest scores that give every row as many weights as it had, flat coordinates and
    scores, where `keep` is left of them. Of equal scores the lower column is taken.

    Args:
        scores: `[rows * cols]`; overwritten.
    """
    topology = site.active
    stays = topology.coordinates() if keep is None else topology.coordinates()[keep[0]]
    left = torch.bincount(stays // max(1, topology.cols), minlength=topology.rows)
    scores[stays] = -torch.inf
    ranked = scores.reshape(topology.rows, topology.cols).sort(dim=1, descending=True, stable=True)
    ranks = torch.arange(topology.cols, device=scores.device)
    taken = ranks < (topology.row_ptr.diff() - left)[:, None]
    rows = torch.arange(topology.rows, device=scores.device)[:, None] * topology.cols
    return (ranked.indices + rows)[taken], ranked.values[taken]

"""Which absent weights may come to life, and how they are ranked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor

from .. import ops
from .distributions import apportion
from .site import Site

Heuristic = Callable[[Site], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Growth:
    """`candidates(site, n, keep, seed)`: flat coordinates `[m]`, m <= n, and their scores `[m]`, highest first choice.

    Attributes:
        armed: the layers record (h, delta) in the step of the change.
        from_dropped: what is dropped in the same round is a candidate too; otherwise only what was absent before it.
        revives: a candidate that was just dropped keeps its value and optimizer state (RigL).
        multiplier: the candidates are a subset, this many times the weights to grow, shared by the layers in
            proportion to their size; None: every layer has as many candidates as it could grow.
    """

    name: str
    candidates: Callable[[Site, int, Tensor | None, int], tuple[Tensor, Tensor]]
    armed: bool
    from_dropped: bool
    revives: bool = False
    multiplier: float | None = None

    def quotas(self, sites: Sequence[Site], counts: Sequence[int], per_layer: bool) -> list[int]:
        """How many candidates each site proposes when `counts` weights are to grow."""
        total = sum(counts)
        if self.multiplier is None:
            return list(counts) if per_layer else [total] * len(sites)
        absent = [site.size - site.nnz for site in sites]
        return apportion([site.size for site in sites], absent, floor(self.multiplier * total))


def _by_dense_gradient(site: Site, n: int, keep: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
    scores = site.dense_gradient().abs().flatten()
    active = site.active.coordinates()
    scores[active if keep is None else active[keep]] = -torch.inf
    chosen = ops.topk_mask([scores], min(n, scores.numel()), False)[0]
    coordinates = chosen.nonzero().flatten()
    scores = scores[coordinates]
    return coordinates[scores >= 0], scores[scores >= 0]


def dense_gradient(*, from_dropped: bool = True) -> Growth:
    """Largest |dL/dW| among the absent weights (RigL). The dense gradient exists only during the change."""
    return Growth("dense gradient", _by_dense_gradient, armed=True, from_dropped=from_dropped, revives=from_dropped)


def _uniformly(site: Site, n: int, keep: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
    topology = site.active
    row_ptr, col = topology.row_ptr, topology.col
    if keep is not None:
        row_ptr, col, _ = ops.rewire(
            row_ptr, col, keep, keep.new_empty(0, dtype=torch.int64), topology.capacity, topology.cols
        )
    rows, cols = torch.ones(topology.rows, device=col.device), torch.ones(topology.cols, device=col.device)
    n = min(n, site.size - int(row_ptr[-1]))
    coordinates, _ = ops.guided_sample(rows, cols, row_ptr, col, n, seed)
    return coordinates, torch.zeros(n, device=col.device)


def uniform() -> Growth:
    """Absent weights, every one equally likely (SET)."""
    return Growth("uniform", _uniformly, armed=False, from_dropped=True)


def uniform_by_size() -> Growth:
    """As `uniform`, the layers growing in proportion to their size (SET as the GraBo paper runs it)."""
    return Growth("uniform by size", _uniformly, armed=False, from_dropped=False, multiplier=1)


def sampled_gradient(heuristic: Heuristic, multiplier: float) -> Growth:
    """Largest |dL/dW| within a sampled subset of the absent weights (GraBo, algorithm 1).

    Args:
        heuristic: gives a layer's distributions over rows and columns, g `[rows]` and f `[cols]`, not normalised.
        multiplier: size of the subset in units of the weights to grow, mu.

    Raises:
        ValueError: `multiplier` is below 1.
    """
    if multiplier < 1:
        raise ValueError(f"multiplier must be at least 1, got {multiplier}")

    def candidates(site: Site, n: int, keep: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
        rows, cols = heuristic(site)
        topology = site.active
        coordinates, _ = ops.guided_sample(rows, cols, topology.row_ptr, topology.col, n, seed)
        return coordinates, site.gradient_at(coordinates).abs()

    return Growth("sampled gradient", candidates, armed=True, from_dropped=False, multiplier=multiplier)


def flat(site: Site) -> tuple[Tensor, Tensor]:
    """Every row and every column alike (GSE-random)."""
    device = site.active.device
    return torch.ones(site.active.rows, device=device), torch.ones(site.active.cols, device=device)


def gradient_bound(site: Site) -> tuple[Tensor, Tensor]:
    """g_b = sum |delta_b|, f_a = sum |h_a|: their product bounds |dL/dW| (GraBo, eq. 8 and appendix)."""
    return site.row_weight(), site.col_weight()

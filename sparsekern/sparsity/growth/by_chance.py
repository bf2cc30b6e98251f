"""Grows absent weights by chance (SET, DeepR, DSR)."""

from functools import partial

import torch
from torch import Tensor

from ... import ops
from ..parts.schedules import ZERO, Schedule
from ..sites.nonzeros import NonzerosSite
from .growth import Growth, Remaining, each_by_itself, refilled


def _uniformly(site: NonzerosSite, n: int, keep: Remaining | None, seed: int) -> tuple[Tensor, Tensor]:
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


def _by_row(site: NonzerosSite, n: int, keep: Remaining | None, seed: int) -> tuple[Tensor, Tensor]:
    drawn = torch.rand(site.size, generator=torch.Generator().manual_seed(seed))
    return refilled(drawn.to(site.active.device), site, keep)


def uniform(rate: Schedule = ZERO) -> Growth:
    """Grows absent weights, every one equally likely (SET).

    Args:
        rate: fraction of the active weights exchanged at a change, by step.
    """
    return Growth(partial(each_by_itself, _uniformly), rate, by_row=partial(each_by_itself, _by_row))


def uniform_elsewhere(rate: Schedule = ZERO) -> Growth:
    """Grows as `uniform`, but not where a weight was dropped in the same round (DSR)."""
    return Growth(partial(each_by_itself, _uniformly), rate, from_dropped=False)


def uniform_by_size(rate: Schedule = ZERO) -> Growth:
    """Grows as `uniform`, the layers growing in proportion to their size (SET as the GraBo paper runs it)."""
    return Growth(partial(each_by_itself, _uniformly), rate, from_dropped=False, multiplier=1)

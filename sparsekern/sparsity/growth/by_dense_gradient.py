"""Grows the absent weights with the largest dense gradient (RigL, GraNet)."""

from functools import partial

import torch
from torch import Tensor

from ... import ops
from ..parts.schedules import ZERO, Schedule
from ..sites.nonzeros import NonzerosSite
from .growth import Growth, Remaining, each_by_itself, places, refilled


def _by_dense_gradient(site: NonzerosSite, n: int, keep: Remaining | None, seed: int) -> tuple[Tensor, Tensor]:
    scores = site.dense_gradient().abs().flatten()
    active = site.active.coordinates()
    scores[active] = -torch.inf if keep is None else torch.where(keep[0], -torch.inf, scores[active])
    n = min(n, site.size - (site.nnz if keep is None else keep[1]))
    coordinates = places(ops.topk_mask([scores], n, False)[0], n)
    return coordinates, scores[coordinates]


def _by_row(site: NonzerosSite, n: int, keep: Remaining | None, seed: int) -> tuple[Tensor, Tensor]:
    return refilled(site.dense_gradient().abs().flatten(), site, keep)


def dense_gradient(rate: Schedule = ZERO, *, from_dropped: bool = True, replaces_step: bool = False) -> Growth:
    """Grows by the largest |dL/dW| among the absent weights (RigL). The dense gradient exists only during the
    change."""
    return Growth(
        partial(each_by_itself, _by_dense_gradient),
        rate,
        armed=True,
        needs="gradient",
        from_dropped=from_dropped,
        revives=from_dropped,
        replaces_step=replaces_step,
        by_row=partial(each_by_itself, _by_row) if from_dropped else None,
    )

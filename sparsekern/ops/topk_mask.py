"""The largest entries over several tensors: `topk_mask`, in bits `topk_bits`, and `kth_largest`, the least of them."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from .bit_index import mask_bits_reference
from .index import SEGMENT
from .library import define
from .shapes import FLOATS

_ops = torch.ops.sparsekern


def topk_mask(scores: Sequence[Tensor], k: int, absolute: bool = False) -> list[Tensor]:
    """Marks exactly the `k` largest entries over all tensors, without concatenating them.

    Of equal entries those come first that are first in the list and, within a tensor, in row-major order. On a GPU the
    host waits once, for whether there was a NaN, when everything that makes the masks is queued.

    Args:
        scores: tensors of one floating-point dtype and any shapes.
        k: how many, from 0 to all.
        absolute: compare magnitudes.

    Returns:
        Bool tensors of the shapes of `scores`.

    Raises:
        ValueError: NaN among the scores, `k` out of range, dtypes or devices that differ.
    """
    if not scores and k == 0:
        return []
    return _ops.topk_mask(_scores(scores), k, absolute)


def topk_bits(scores: Sequence[Tensor], k: int, absolute: bool = False) -> tuple[list[Tensor], Tensor]:
    """Marks what `topk_mask` does, in an eighth of the memory.

    Returns:
        For each tensor a bitmask as `bit_index` makes it, int64 `[rows, segments]`: a row for every entry of the first
        dimension, one for a tensor of one dimension or none; and how many entries are marked in each, int64
        `[len(scores)]`.
    """
    if not scores and k == 0:
        return [], torch.zeros(0, dtype=torch.int64)
    *bits, counts = _ops.topk_bits(_scores(scores), k, absolute)
    return bits, counts


def kth_largest(scores: Sequence[Tensor], k: int, absolute: bool = False) -> Tensor:
    """Returns the `k`-th largest entry over all tensors (`k` from 1), or the `k`-th largest magnitude, 0-d, dtype of
    `scores`.

    Arguments and errors are those of `topk_mask`.
    """
    return _ops.kth_largest(_scores(scores), k, absolute)


def _scores(scores: Sequence[Tensor]) -> list[Tensor]:
    if not scores:
        raise ValueError("scores must not be empty")
    kinds = {(score.dtype, score.device) for score in scores}
    if len(kinds) > 1 or scores[0].dtype not in FLOATS:
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ValueError(f"scores must have one floating-point dtype and one device, got {found}")
    return [score.detach() for score in scores]


def topk_mask_reference(scores: list[Tensor], k: int, absolute: bool) -> list[Tensor]:
    """Marks exactly the `k` largest entries over all tensors; of equal ones the lower global flat index wins."""
    if not scores:
        return []
    flat = _sortable(scores, absolute)
    if not 0 <= k <= flat.numel():
        raise ValueError(f"k must be between 0 and {flat.numel()}, the number of scores, got {k}")
    order = torch.argsort(flat, descending=True, stable=True)
    mask = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    mask[order[:k]] = True
    parts = mask.split([s.numel() for s in scores])
    return [p.reshape(s.shape).clone() for p, s in zip(parts, scores, strict=True)]


def topk_bits_reference(scores: list[Tensor], k: int, absolute: bool) -> list[Tensor]:
    """The marks of `topk_mask` as bitmasks, and how many there are."""
    masks = topk_mask_reference(scores, k, absolute)
    if not masks:
        return []
    bits = (mask_bits_reference(mask.reshape(_extents(mask))) for mask in masks)
    return [*bits, torch.stack([mask.count_nonzero() for mask in masks])]


def kth_largest_reference(scores: list[Tensor], k: int, absolute: bool) -> Tensor:
    """The `k`-th largest entry over all tensors, `k` from 1, 0-d."""
    flat = _sortable(scores, absolute)
    if not 1 <= k <= flat.numel():
        raise ValueError(f"k must be between 1 and {flat.numel()}, the number of scores, got {k}")
    return flat.topk(k).values[-1].clone()


def _sortable(scores: list[Tensor], absolute: bool) -> Tensor:
    flat = torch.cat([s.flatten() for s in scores])
    flat = flat.abs() if absolute else flat
    if bool(flat.isnan().any()):
        raise ValueError("scores must not contain NaN")
    return flat


def topk_mask_fake(scores: list[Tensor], k: int, absolute: bool) -> list[Tensor]:
    return [torch.empty_like(s, dtype=torch.bool, memory_format=torch.contiguous_format) for s in scores]


def topk_bits_fake(scores: list[Tensor], k: int, absolute: bool) -> list[Tensor]:
    extents = [_extents(score) for score in scores]
    bits = [
        score.new_empty((rows, (cols + SEGMENT - 1) // SEGMENT), dtype=torch.int64)
        for score, (rows, cols) in zip(scores, extents, strict=True)
    ]
    return [*bits, scores[0].new_empty(len(scores), dtype=torch.int64)] if scores else []


def _extents(score: Tensor) -> tuple[int, int]:
    """Returns the rows and columns of the bitmask of a tensor."""
    return (score.shape[0], prod(score.shape[1:])) if score.dim() > 1 else (1, score.numel())


def kth_largest_fake(scores: list[Tensor], k: int, absolute: bool) -> Tensor:
    return scores[0].new_empty(())


define(
    "topk_mask(Tensor[] scores, int k, bool absolute) -> Tensor[]", reference=topk_mask_reference, fake=topk_mask_fake
)
define(
    "topk_bits(Tensor[] scores, int k, bool absolute) -> Tensor[]", reference=topk_bits_reference, fake=topk_bits_fake
)
define(
    "kth_largest(Tensor[] scores, int k, bool absolute) -> Tensor",
    reference=kth_largest_reference,
    fake=kth_largest_fake,
)

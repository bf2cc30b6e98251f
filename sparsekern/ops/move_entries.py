"""Entries of a vector that stay, moved to where they belong, in place if need be: `move_entries`."""

import torch
from torch import Tensor

from .bit_index import bit_mask
from .index import SEGMENT
from .library import define


def move_entries(source: Tensor, target: Tensor, keep: Tensor, size: int, old: Tensor, used: int, fill: Tensor) -> None:
    """Puts the entries of `source` that stay into `target`, in their order, and `fill` everywhere else.

    Args:
        source: `[n]`, of elements of 8 bytes at most.
        target: `[m]`, of the same dtype; may begin where `source` does.
        keep: which of the first `size` entries of `source` stay, a bitmask of one row (`mask_bits`).
        old: which of the first `used` entries of `target` they become, a bitmask of one row; they are the first ones if
            `used` is 0.
        fill: a tensor of one number, of the same dtype.

    Raises:
        ValueError: any of this does not hold, or `old` marks more or fewer entries than `keep`.
    """
    torch.ops.sparsekern.move_entries(source, target, keep, size, old, used, fill)


def move_entries_reference(
    source: Tensor, target: Tensor, keep: Tensor, size: int, old: Tensor, used: int, fill: Tensor
) -> None:
    """Chooses by one mask, and writes by the other."""
    for bits, n, most in ((keep, size, source.numel()), (old, used, target.numel())):
        if bits.shape != (1, (n + SEGMENT - 1) // SEGMENT) or not 0 <= n <= most:
            raise ValueError(f"expected bits [1, segments] of at most {most} entries, got {tuple(bits.shape)} for {n}")
        if bool(bit_mask(bits, SEGMENT * bits.shape[1])[0, n:].any()):
            raise ValueError(f"bits beyond {n} must not be set")
    if not source.dtype == target.dtype == fill.dtype:
        raise ValueError(
            f"source, target and fill must have one dtype, got {source.dtype}, {target.dtype}, {fill.dtype}"
        )
    stays = source.view(-1)[:size][bit_mask(keep, size)[0]]
    places = bit_mask(old, used)[0].nonzero().flatten() if used else torch.arange(len(stays), device=stays.device)
    if len(places) != len(stays) or len(stays) > target.numel():
        raise ValueError(f"old must mark {len(stays)} entries of {target.numel()}, got {len(places)}")
    target.fill_(fill.view(()))
    target.view(-1)[places] = stays


define(
    "move_entries(Tensor source, Tensor(a!) target, Tensor keep, int size, Tensor old, int used, Tensor fill) -> ()",
    reference=move_entries_reference,
)

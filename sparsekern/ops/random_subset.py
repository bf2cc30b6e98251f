"""Distinct integers at random: `random_subset`."""

import torch
from torch import Tensor

from .distinct import Stream, random_distinct
from .library import define


def random_subset(n: int, size: int, seed: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Draws `n` distinct integers in [0, size), ascending, int64 `[n]`; every such set is equally likely. O(n) memory.

    Args:
        seed: the same seed gives the same integers, on any device.
        device: where they are.

    Raises:
        ValueError: `n` is not in [0, size].
    """
    if not 0 <= n <= size:
        raise ValueError(f"n must be between 0 and {size}, got {n}")
    chosen = torch.empty(n, dtype=torch.int64, device=device)
    torch.ops.sparsekern.random_subset(chosen, size, seed)
    return chosen


def random_subset_reference(out: Tensor, size: int, seed: int) -> None:
    """Fills `out` (int64 `[n]`) with `n` distinct integers in [0, size), ascending, every such set equally likely."""
    if out.numel() > size:
        raise ValueError(f"cannot choose {out.numel()} distinct integers below {size}")
    out.copy_(random_distinct(out.numel(), size, Stream(seed, out.device), 0))


define("random_subset(Tensor(a!) out, SymInt size, int seed) -> ()", reference=random_subset_reference)

"""Random sets of distinct numbers in plain PyTorch. The kernels draw the same numbers, so they choose the same sets."""

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 1 << 17
FEW = 64
GOLDEN, MIX1, MIX2 = 0x9E3779B97F4A7C15 - (1 << 64), 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ shifted(x, 30)) * MIX1
    x = (x ^ shifted(x, 27)) * MIX2
    return x ^ shifted(x, 31)


def shifted(x: Tensor, n: int) -> Tensor:
    """Returns `x >> n` of the unsigned number with the bits of `x`."""
    return (x >> n) & ((1 << (64 - n)) - 1)


class Stream:
    """SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), read by position."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.base = _mix(torch.tensor(seed, device=device))

    def bits(self, position: Tensor) -> Tensor:
        return _mix(self.base + (position + 1) * GOLDEN)

    def unit(self, position: Tensor) -> Tensor:
        """Returns numbers in [0, 1), on a grid of 2**-53."""
        return shifted(self.bits(position), 11).double() * 2.0**-53


def extend_distinct(
    chosen: Tensor, n: int, rounds: int | None, start: int, draw: Callable[[Tensor], Tensor]
) -> tuple[Tensor, int]:
    """Grows the ascending set `chosen` towards `n` members with the independent draws number `start`, `start + 1`, ...

    The set is that of the first distinct draws, as if they were made one by one. A round draws what will be needed if
    it fares like the last one, and no more than `n`, except for small `n`. Also returns the number of the next draw.
    """
    drawn = accepted = 1
    while (missing := n - chosen.numel()) > 0 and rounds != 0:
        drawn = min(max(missing * drawn // accepted, FEW), max(n, FEW))
        blocks = [range(at, min(at + BLOCK, start + drawn)) for at in range(start, start + drawn, BLOCK)]
        fresh = torch.cat([draw(torch.arange(b.start, b.stop, device=chosen.device)) for b in blocks])
        if fresh.numel() > missing:
            fresh = _keep_first(fresh, chosen, missing)
        before = chosen.numel()
        chosen = _union(chosen, fresh) if before else _distinct(fresh)
        accepted = max(1, chosen.numel() - before)
        start, rounds = start + drawn, None if rounds is None else rounds - 1
    return chosen, start


def contains(ascending: Tensor, numbers: Tensor) -> Tensor:
    if not ascending.numel():
        return torch.zeros_like(numbers, dtype=torch.bool)
    return ascending[torch.searchsorted(ascending, numbers).clamp_(max=ascending.numel() - 1)] == numbers


def _distinct(numbers: Tensor) -> Tensor:
    numbers = numbers.sort().values
    first = torch.ones_like(numbers, dtype=torch.bool)
    torch.ne(numbers[1:], numbers[:-1], out=first[1:])
    return numbers[first]


def _union(chosen: Tensor, fresh: Tensor) -> Tensor:
    """Returns the ascending set of what is in the ascending set `chosen` or in `fresh`; sorts `fresh` only."""
    fresh = _distinct(fresh[~contains(chosen, fresh)])
    total = chosen.numel() + fresh.numel()
    place = torch.searchsorted(chosen, fresh) + torch.arange(fresh.numel(), device=fresh.device)
    old = chosen.new_ones(total, dtype=torch.bool)
    old[place] = False
    return chosen.new_empty(total).index_copy_(0, place, fresh).masked_scatter_(old, chosen)


def _keep_first(draws: Tensor, chosen: Tensor, n: int) -> Tensor:
    """Returns the first `n` of the draws, in the order they were made, that are not repeated and not in the set
    `chosen`."""
    number, when = draws.sort(stable=True)
    fresh = ~contains(chosen, number)
    fresh[1:] &= number[1:] != number[:-1]
    return number[fresh][when[fresh].argsort()[:n]]


def random_distinct(n: int, size: int, stream: Stream, start: int) -> Tensor:
    """Draws `n` distinct numbers in [0, size), ascending, every such set equally likely."""
    device = stream.base.device
    if n > size - n:  # draw what is absent
        present = torch.ones(size, dtype=torch.bool, device=device)
        present[random_distinct(size - n, size, stream, start)] = False
        return present.nonzero().flatten()
    # The largest multiple of `size` up to 2**63: what lies beyond would favour small numbers.
    last_fair = 2**63 // max(1, size) * size - 1

    def draw(position: Tensor) -> Tensor:
        x = shifted(stream.bits(position), 1)
        return x[x <= last_fair] % size

    return extend_distinct(torch.empty(0, dtype=torch.int64, device=device), n, None, start, draw)[0]

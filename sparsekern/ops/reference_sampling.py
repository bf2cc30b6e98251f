"""Random sets of coordinates in plain PyTorch. The kernels draw the same numbers, so they choose the same sets."""

from collections.abc import Callable

import torch
from torch import Tensor

from .csr import check_host

ROUNDS = 32
BLOCK = 1 << 17
FEW = 64
GOLDEN, MIX1, MIX2 = 0x9E3779B97F4A7C15 - (1 << 64), 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * MIX1
    x = (x ^ _shifted(x, 27)) * MIX2
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, n: int) -> Tensor:
    """`x >> n` of the unsigned number with the bits of `x`."""
    return (x >> n) & ((1 << (64 - n)) - 1)


class Stream:
    """SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), read by position."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.base = _mix(torch.tensor(seed, device=device))

    def bits(self, position: Tensor) -> Tensor:
        return _mix(self.base + (position + 1) * GOLDEN)

    def unit(self, position: Tensor) -> Tensor:
        """In [0, 1), on a grid of 2**-53."""
        return _shifted(self.bits(position), 11).double() * 2.0**-53


def _extend_distinct(
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


def _contains(ascending: Tensor, numbers: Tensor) -> Tensor:
    if not ascending.numel():
        return torch.zeros_like(numbers, dtype=torch.bool)
    return ascending[torch.searchsorted(ascending, numbers).clamp_(max=ascending.numel() - 1)] == numbers


def _distinct(numbers: Tensor) -> Tensor:
    numbers = numbers.sort().values
    first = torch.ones_like(numbers, dtype=torch.bool)
    torch.ne(numbers[1:], numbers[:-1], out=first[1:])
    return numbers[first]


def _union(chosen: Tensor, fresh: Tensor) -> Tensor:
    """The ascending set of what is in the ascending set `chosen` or in `fresh`; sorts `fresh` only."""
    fresh = _distinct(fresh[~_contains(chosen, fresh)])
    total = chosen.numel() + fresh.numel()
    place = torch.searchsorted(chosen, fresh) + torch.arange(fresh.numel(), device=fresh.device)
    old = chosen.new_ones(total, dtype=torch.bool)
    old[place] = False
    return chosen.new_empty(total).index_copy_(0, place, fresh).masked_scatter_(old, chosen)


def _keep_first(draws: Tensor, chosen: Tensor, n: int) -> Tensor:
    """The first `n` of the draws, in the order they were made, that are not repeated and not in the set `chosen`."""
    number, when = draws.sort(stable=True)
    fresh = ~_contains(chosen, number)
    fresh[1:] &= number[1:] != number[:-1]
    return number[fresh][when[fresh].argsort()[:n]]


def _random_distinct(n: int, size: int, stream: Stream, start: int) -> Tensor:
    """`n` distinct numbers in [0, size), ascending, every such set equally likely."""
    device = stream.base.device
    if n > size - n:  # draw what is absent
        present = torch.ones(size, dtype=torch.bool, device=device)
        present[_random_distinct(size - n, size, stream, start)] = False
        return present.nonzero().flatten()
    # The largest multiple of `size` up to 2**63: what lies beyond would favour small numbers.
    last_fair = 2**63 // max(1, size) * size - 1

    def draw(position: Tensor) -> Tensor:
        x = _shifted(stream.bits(position), 1)
        return x[x <= last_fair] % size

    return _extend_distinct(torch.empty(0, dtype=torch.int64, device=device), n, None, start, draw)[0]


def random_subset(out: Tensor, size: int, seed: int) -> None:
    """Fills `out` (int64 `[n]`) with `n` distinct integers in [0, size), ascending, every such set equally likely."""
    if out.numel() > size:
        raise ValueError(f"cannot choose {out.numel()} distinct integers below {size}")
    out.copy_(_random_distinct(out.numel(), size, Stream(seed, out.device), 0))


def _cumulative(weight: Tensor, name: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """The cumulative sum of `weight` (on the CPU, one order of sums for every device) relative to its largest, along
    the last dimension, and whether each is more than zero."""
    if not bool((weight.isfinite() & (weight >= 0)).all()):
        raise ValueError(f"{name} must be finite and not negative")
    if weight.shape[-1]:
        largest = weight.max(-1, keepdim=True).values
        weight = weight / torch.where(largest > 0, largest, 1)
    return weight.cumsum(-1).to(device), (weight > 0).to(device)


def guided_sample(
    row_weight: Tensor, col_weight: Tensor, row_ptr: Tensor, col: Tensor, n: int, seed: int
) -> tuple[Tensor, Tensor]:
    """`n` distinct inactive coordinates, drawn one after another with probability proportional to
    `row_weight[r] * col_weight[c]`, ascending; and how many of them the uniform remainder supplied.

    Draws that hit an active or an already drawn coordinate are repeated, at most `ROUNDS` times, after which the rest
    is uniform over what is still inactive. Where `n` is no less than what has a positive probability, that is taken
    whole and only what is then missing is uniform. `col_weight` `[groups, cols]` has one distribution for each of as
    many equal ranges of rows.
    """
    row_weight, col_weight = row_weight.double().cpu(), torch.atleast_2d(col_weight).double().cpu()
    rows, (groups, cols) = row_weight.numel(), col_weight.shape
    height = rows // groups
    col_sum, col_positive = _cumulative(col_weight, "col_weight", col.device)
    if groups > 1:  # a row's share is its weight times the sum of its group's
        row_weight = row_weight * col_weight.sum(1).repeat_interleave(height)
    row_sum, row_positive = _cumulative(row_weight, "row_weight", col.device)
    check_host(row_ptr, col, cols)
    nnz = int(row_ptr[-1])
    row_of = torch.repeat_interleave(torch.arange(rows, device=col.device), row_ptr.diff().long())
    active = row_of * cols + col[:nnz].long()
    if not 0 <= n <= rows * cols - nnz:
        raise ValueError(f"n must be between 0 and {rows * cols - nnz}, the number of inactive coordinates, got {n}")

    stream = Stream(seed, col.device)
    row_positive = row_positive.reshape(groups, height)
    active_positive = row_positive.flatten()[row_of] & col_positive[row_of // max(1, height), col[:nnz].long()]
    per_group = row_positive.sum(1) * col_positive.sum(1)
    start = 0
    if int(per_group.sum()) - int(active_positive.sum()) <= n:
        parts = [
            ((at * height + positive.nonzero()) * cols + col_positive[at].nonzero().T).flatten()
            for at, positive in enumerate(row_positive)
        ]
        support = torch.cat(parts)
        chosen = support[~_contains(active, support)]
    else:

        def draw(position: Tensor) -> Tensor:
            row = torch.searchsorted(row_sum, stream.unit(2 * position) * row_sum[-1], right=True)
            drawn = row * cols + _pick(col_sum, row // height, stream.unit(2 * position + 1))
            return drawn[~_contains(active, drawn)]

        chosen, start = _extend_distinct(active.new_empty(0), n, ROUNDS, 0, draw)
    rest = n - chosen.numel()
    taken = torch.cat([active, chosen]).sort().values
    ranks = _random_distinct(rest, rows * cols - taken.numel(), stream, 2 * start)  # a guided draw took two numbers
    gaps = taken - torch.arange(taken.numel(), device=taken.device)
    uniform = ranks + torch.searchsorted(gaps, ranks, right=True)
    return torch.cat([chosen, uniform]).sort().values, torch.tensor(rest, device=col.device)


def _pick(sums: Tensor, group: Tensor, unit: Tensor) -> Tensor:
    """For each of `unit` in [0, 1) the column where the cumulative sums of its group pass that share of their total."""
    groups, cols = sums.shape
    if groups == 1:
        return torch.searchsorted(sums[0], unit * sums[0, -1], right=True)
    total = torch.where(sums[:, -1:] > 0, sums[:, -1:], 1)
    # Group g takes [g, g + 1) of one ascending list; the draws stay below g + 1 whatever the rounding.
    ends = (sums / total + torch.arange(groups, device=sums.device)[:, None]).flatten()
    target = torch.minimum(unit + group, torch.nextafter(group + 1.0, group.double()))
    return torch.searchsorted(ends, target, right=True) - group * cols

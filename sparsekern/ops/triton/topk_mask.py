"""The k largest of the numbers in a list of tensors, marked or the last of them: passes of `radix_select`, then, if not
all of the numbers that are equal to the last one belong to them, one that counts these, and one that writes the masks.

Three readings, as a rule, and the masks take 17 bytes of traffic for a number of fp32.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Config, launch
from .radix_select import CONFIGS, find, keys, numbers_of, select, selected


def topk_mask(scores: Sequence[Tensor], k: int, absolute: bool) -> list[Tensor]:
    """Marks exactly the `k` largest entries over all tensors; of equal ones the lower global flat index wins. The host
    queues everything before it waits: to be told whether there was a NaN."""
    size = _checked(scores, k, 0)
    masks = [torch.empty(score.shape, dtype=torch.bool, device=score.device) for score in scores]
    if size == 0:
        return masks
    numbers = numbers_of(scores, masks)
    found = select(numbers, max(k, 1), absolute)
    equal = torch.zeros(numbers.chunks, dtype=torch.int64, device=found.state.device)
    given = scores[0], numbers.table, found.state
    launch(_count_equal, numbers.grid, *given, equal, numbers.chunks, k, configs=CONFIGS, **found.constants)
    launch(_mark, numbers.grid, *given, equal.cumsum(0), numbers.chunks, k, configs=CONFIGS, **found.constants)
    found.refuse_nan()
    return masks


def kth_largest(scores: Sequence[Tensor], k: int, absolute: bool) -> Tensor:
    """The `k`-th largest entry over all tensors, `k` from 1, 0-d."""
    _checked(scores, k, 1)
    found = select(numbers_of(scores, ()), k, absolute)
    number = scores[0].new_empty(())
    constants = {name: found.constants[name] for name in ("ABSOLUTE", "SHIFTS", "LINE")}
    launch(_number, lambda _: (1,), number, found.state, k, configs=[Config({}, warps=1)], **constants)
    found.refuse_nan()
    return number


def _checked(scores: Sequence[Tensor], k: int, least: int) -> int:
    size = sum(score.numel() for score in scores)
    if not least <= k <= size:
        raise ValueError(f"k must be between {least} and {size}, the number of scores, got {k}")
    return size


@triton.jit(do_not_specialize=["chunks", "k"])
def _count_equal(
    like,
    table,
    state,
    equals,
    chunks,
    k,
    SHIFTS: tl.constexpr,
    ABSOLUTE: tl.constexpr,
    LINE: tl.constexpr,
    NAN: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Counts the elements of each chunk that are equal to the k-th largest; nothing is read if all of them are
    taken."""
    last, needed, equal = selected(state, tl.maximum(k, 1), len(SHIFTS) - 1, SHIFTS, LINE)
    if tl.minimum(needed, k) < equal:
        for chunk in range(tl.program_id(0), chunks, tl.num_programs(0)):
            key, valid, _ = keys(like, table, chunk, ABSOLUTE, NAN, CHUNK, WIDTH, ALIGNED)
            tl.store(equals + chunk, tl.sum((valid & (key == last)).to(tl.int64)))


@triton.jit(do_not_specialize=["chunks", "k"])
def _mark(
    like,
    table,
    state,
    equals,
    chunks,
    k,
    SHIFTS: tl.constexpr,
    ABSOLUTE: tl.constexpr,
    LINE: tl.constexpr,
    NAN: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """`equals` is how many numbers up to the end of each chunk are equal to the k-th largest."""
    last, needed, equal = selected(state, tl.maximum(k, 1), len(SHIFTS) - 1, SHIFTS, LINE)
    needed = tl.minimum(needed, k)
    for chunk in range(tl.program_id(0), chunks, tl.num_programs(0)):
        key, valid, _ = keys(like, table, chunk, ABSOLUTE, NAN, CHUNK, WIDTH, ALIGNED)
        tie = valid & (key == last)
        chosen = (key > last) | tie
        if needed < equal:
            before = tl.load(equals + chunk) - tl.sum(tie.to(tl.int64))
            chosen = (key > last) | (tie & (before + tl.cumsum(tie.to(tl.int32)) <= needed))
        column, start, lane, _ = find(table, chunk, CHUNK, WIDTH)
        mask = tl.load(column + 3 * WIDTH).to(tl.pointer_type(tl.int8))
        if ALIGNED:
            mask = tl.multiple_of(mask, 16)
        if start + CHUNK <= tl.load(column + WIDTH):
            tl.store(mask + start + lane, chosen.to(tl.int8))
        else:
            tl.store(mask + start + lane, chosen.to(tl.int8), valid)


@triton.jit(do_not_specialize=["k"])
def _number(number, state, k, ABSOLUTE: tl.constexpr, SHIFTS: tl.constexpr, LINE: tl.constexpr):
    """The number that a key belongs to."""
    key, _, _ = selected(state, k, len(SHIFTS) - 1, SHIFTS, LINE)
    bits = key.to(tl.int32, bitcast=True)
    WIDTH: tl.constexpr = number.dtype.element_ty.primitive_bitwidth
    SIGN: tl.constexpr = 1 << (WIDTH - 1)
    if not ABSOLUTE:
        order = (key - SIGN).to(tl.int32, bitcast=True)
        bits = tl.where(order < 0, (0 - order) | (-SIGN), order)
    bits = bits.to(tl.int32 if WIDTH == 32 else tl.int16)
    tl.store(number, bits.to(number.dtype.element_ty, bitcast=True))

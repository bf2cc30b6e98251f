"""The k-th largest of the numbers in a list of tensors: radix select on integers in their order, read where they are.

Every digit is a pass that counts how often its values occur among the numbers whose higher digits are those of the k-th
largest. In fp32 the third pass also puts these numbers aside, a few per cent as a rule, and the passes after it read no
more than them; if they do not fit, these passes read everything again. Counters are integers: the order in which
programs run does not show.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import host
from .launch import Config, launch

CHUNK = 1024  # numbers of one tensor that a program looks at together
PROGRAMS = 1024
CONFIGS = [Config({})]
# Bits of the digits, the highest first, of keys of so many bits. A pass over everything has 64 values to tell apart at
# most: to count more takes longer than to read.
DIGITS = {15: (5, 5, 5), 16: (6, 5, 5), 31: (6, 6, 6, 6, 7), 32: (6, 6, 6, 7, 7)}
ASIDE, SHARE = 2, 16  # the pass that puts numbers aside, and which part of all they may be
LINE = 128  # counters of a pass in `state`
NAN = {torch.float32: 0x7F800000, torch.bfloat16: 0x7F80, torch.float16: 0x7C00}  # magnitudes above are NaN


class Numbers(NamedTuple):
    """A list of tensors of one dtype, cut into chunks."""

    scores: list[Tensor]  # kept alive, as the table has only their addresses
    table: Tensor  # int64 `[fields, tensors]`, as `find` reads it
    chunks: int
    size: int
    aligned: bool  # whether all of them begin at multiples of 16 bytes

    def grid(self, _: dict[str, int]) -> tuple[int, ...]:
        return (min(self.chunks, PROGRAMS),)


class Selected(NamedTuple):
    """The k-th largest, as the counts of all digits give it."""

    state: Tensor  # int64 `[passes + 1, LINE]`: counts; in the last line how many NaN and how many were put aside
    constants: dict[str, Any]  # of the kernels that read it

    def refuse_nan(self) -> None:
        """Waits for the device, but within `host.deferred_checks`."""
        if not self.state.is_meta:
            host.refuse_nan(self.state[-1, 0])


def numbers_of(scores: Sequence[Tensor], masks: Sequence[Tensor]) -> Numbers:
    """The tensors where they are; only what is not contiguous and has no offsets of 31 bits in four dimensions is
    copied. `masks` belong to them and are contiguous, or there are none."""
    scores, columns, first = [_addressable(score) for score in scores], [], 0
    for score, mask in zip(scores, masks or scores, strict=True):
        whole = score.is_contiguous()
        shape = [1] * 4 if whole else [1] * (4 - score.dim()) + [*score.shape]
        strides = [0] * 4 if whole else [0] * (4 - score.dim()) + [*score.stride()]
        columns.append([first, score.numel(), score.data_ptr(), mask.data_ptr(), whole, *shape[1:], *strides])
        first += triton.cdiv(score.numel(), CHUNK)
    aligned = all(column[2] % 16 == 0 and column[3] % 16 == 0 for column in columns)
    columns += [[first] + [0] * 11] * (triton.next_power_of_2(len(columns)) - len(columns))
    table = torch.tensor(columns).t().contiguous()
    if scores[0].is_cuda:
        table = table.pin_memory()  # the host would wait for a copy from other memory
    size = sum(score.numel() for score in scores)
    return Numbers(scores, table.to(scores[0].device, non_blocking=True), first, size, aligned)


def _addressable(score: Tensor) -> Tensor:
    reach = sum((n - 1) * stride for n, stride in zip(score.shape, score.stride(), strict=True))
    return score if score.dim() <= 4 and max(reach, score.numel()) < 2**31 else score.contiguous()


def select(numbers: Numbers, k: int, absolute: bool) -> Selected:
    """Queues the passes, `k` from 1. The host does not wait."""
    like, device = numbers.scores[0], numbers.table.device
    digits = DIGITS[8 * like.element_size() - absolute]
    shifts = tuple(sum(digits[i:]) for i in range(len(digits) + 1))
    keep = ASIDE if len(digits) > ASIDE + 1 else len(digits)
    state = torch.zeros(len(digits) + 1, LINE, dtype=torch.int64, device=device)
    aside = torch.empty(numbers.size // SHARE if keep == ASIDE else 0, dtype=torch.int32, device=device)
    constants = {"SHIFTS": shifts, "ABSOLUTE": absolute, "LINE": LINE, "NAN": NAN[like.dtype], "CHUNK": CHUNK}
    constants |= {"WIDTH": numbers.table.shape[1], "ALIGNED": numbers.aligned}
    for place in range(len(digits)):
        launch(
            _count,
            numbers.grid,
            like,
            numbers.table,
            state,
            aside,
            numbers.chunks,
            aside.numel(),
            k,
            configs=CONFIGS,
            sizes=(numbers.size,),
            PASS=place,
            ASIDE=keep,
            **constants,
        )
    return Selected(state, constants)


@triton.jit(do_not_specialize=["chunks", "capacity", "k"])
def _count(
    like,
    table,
    state,
    aside,
    chunks,
    capacity,
    k,
    PASS: tl.constexpr,
    ASIDE: tl.constexpr,
    SHIFTS: tl.constexpr,
    ABSOLUTE: tl.constexpr,
    LINE: tl.constexpr,
    NAN: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """A reading of all numbers, or of those that were put aside, whose order does not matter."""
    VALUES: tl.constexpr = 1 << (SHIFTS[PASS] - SHIFTS[PASS + 1])
    prefix, _, _ = selected(state, k, PASS, SHIFTS, LINE)
    told = state + (len(SHIFTS) - 1) * LINE
    kept = tl.load(told + 1)
    counts = tl.zeros([VALUES], tl.int32)
    if (PASS > ASIDE) & (kept <= capacity):
        for start in range(tl.program_id(0) * CHUNK, kept, tl.num_programs(0) * CHUNK):
            lane = tl.arange(0, CHUNK)
            key = tl.load(aside + start + lane, lane < kept - start, 0).to(tl.uint32, bitcast=True)
            alike = (lane < kept - start) & ((key >> SHIFTS[PASS]) == prefix)
            digit = (key >> SHIFTS[PASS + 1]) & (VALUES - 1)
            counts += tl.histogram(digit.to(tl.int32), VALUES, mask=alike)
    else:
        nan = 0
        for chunk in range(tl.program_id(0), chunks, tl.num_programs(0)):
            key, valid, above = keys(like, table, chunk, ABSOLUTE, NAN, CHUNK, WIDTH, ALIGNED)
            alike = valid
            if PASS == 0:
                nan += tl.sum(above.to(tl.int32))
            else:
                alike = valid & ((key >> SHIFTS[PASS]) == prefix)
            digit = (key >> SHIFTS[PASS + 1]) & (VALUES - 1)
            counts += tl.histogram(digit.to(tl.int32), VALUES, mask=alike)
            if PASS == ASIDE:
                rank = tl.cumsum(alike.to(tl.int32))
                slot = tl.atomic_add(told + 1, tl.sum(alike.to(tl.int64)), sem="relaxed") + rank - 1
                tl.store(aside + slot, key.to(tl.int32, bitcast=True), alike & (slot < capacity))
        if PASS == 0:
            tl.atomic_add(told, nan.to(tl.int64), nan > 0, sem="relaxed")
    value = tl.arange(0, VALUES)
    tl.atomic_add(state + PASS * LINE + value, counts.to(tl.int64), counts > 0, sem="relaxed")


@triton.jit
def selected(state, k, PASSES: tl.constexpr, SHIFTS: tl.constexpr, LINE: tl.constexpr):
    """After some passes: the digits of the k-th largest that are known, how many of the numbers that begin with them
    are among the k largest, and how many there are."""
    prefix = tl.zeros([], tl.uint32)
    needed = k.to(tl.int64)
    equal = needed
    for i in tl.static_range(PASSES):
        value = tl.arange(0, LINE)
        counts = tl.load(state + i * LINE + value)
        higher = tl.sum(counts) - tl.cumsum(counts)
        digit = tl.sum((higher + counts >= needed).to(tl.int32)) - 1
        equal = tl.sum(tl.where(value == digit, counts, 0))
        needed -= tl.sum(tl.where(value == digit, higher, 0))
        prefix = (prefix << (SHIFTS[i] - SHIFTS[i + 1])) | digit.to(tl.uint32)
    return prefix, needed, equal


@triton.jit
def keys(
    like,
    table,
    chunk,
    ABSOLUTE: tl.constexpr,
    NAN: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Unsigned integers in the order of the numbers of a chunk, or of their magnitudes, both zeros the same; which lie
    in their tensor; which are NaN."""
    column, start, lane, valid = find(table, chunk, CHUNK, WIDTH)
    numbers = tl.load(column + 2 * WIDTH).to(tl.pointer_type(like.dtype.element_ty))
    if ALIGNED:
        numbers = tl.multiple_of(numbers, 16)
    if tl.load(column + 4 * WIDTH) == 0:
        rest, at = start.to(tl.int32) + lane, lane * 0
        for d in tl.static_range(3):
            extent = tl.load(column + (7 - d) * WIDTH).to(tl.int32)
            at += rest % extent * tl.load(column + (11 - d) * WIDTH).to(tl.int32)
            rest = rest // extent
        at += rest * tl.load(column + 8 * WIDTH).to(tl.int32)
        x = tl.load(numbers + at, valid, 0)
    elif start + CHUNK <= tl.load(column + WIDTH):
        x = tl.load(numbers + start + lane)  # without a condition it is one of 16 bytes
    else:
        x = tl.load(numbers + start + lane, valid, 0)
    SIGN: tl.constexpr = 1 << (x.dtype.primitive_bitwidth - 1)
    bits = x.to(tl.int32 if x.dtype.primitive_bitwidth == 32 else tl.int16, bitcast=True).to(tl.int32)
    magnitude = bits & (SIGN - 1)
    key = magnitude.to(tl.uint32, bitcast=True)
    if not ABSOLUTE:
        key = tl.where(bits < 0, -magnitude, magnitude).to(tl.uint32, bitcast=True) + SIGN
    return key, valid, valid & (magnitude > NAN)


@triton.jit
def find(table, chunk, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """The column of a chunk's tensor in the table, where in the tensor the chunk begins, and which of its lanes exist.
    Fields: first chunk, size, address, address of the mask, whether contiguous, extents but the first, strides."""
    column = table + tl.sum((tl.load(table + tl.arange(0, WIDTH)) <= chunk).to(tl.int32)) - 1
    start = (chunk - tl.load(column)) * CHUNK
    lane = tl.arange(0, CHUNK)
    return column, start, lane, lane < tl.load(column + WIDTH) - start

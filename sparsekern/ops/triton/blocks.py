"""Blocks of a weight under a bitmask: which of their entries exist, and which blocks have any.

A weight is seen `[rows, taps * channels]`, a column of the kernel (a tap) after the other, its channels in words of 64
bits: the order in which a convolution over channels that lie side by side reads them. A linear layer has one tap.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..index import SEGMENT
from .launch import Config, launch

BLOCK = 2 * SEGMENT  # rows or channels whose blocks share a list of steps


def by_tap(bits: Tensor, channels: int, taps: int) -> Tensor:
    """The bitmask `[rows, taps, words]` of that of a weight viewed `[rows, channels * taps]`."""
    rows, words = bits.shape[0], (channels + SEGMENT - 1) // SEGMENT
    if taps == 1:
        return bits.view(rows, 1, words)
    by_taps = bits.new_empty(rows, taps, words)

    def grid(blocks: dict[str, int]) -> tuple[int, ...]:
        return triton.cdiv(rows, blocks["ROWS"]), taps * words

    configs = [Config({"ROWS": 16})]
    launch(_by_tap, grid, bits, by_taps, rows, channels, bits.shape[1], configs=configs, TAPS=taps, SEGMENT=SEGMENT)
    return by_taps


def steps_forward(words: Tensor, groups: int) -> Tensor:
    """Lists for every `BLOCK` rows of a group the words that are not empty: how many, then which, ascending. int32
    `[groups, 1, blocks, 1 + words of a row]`."""
    rows, taps, per_tap = words.shape[0] // groups, *words.shape[1:]
    return _steps(
        words, groups, (rows, BLOCK, taps * per_tap), (taps, per_tap, 1, per_tap, 1), (1, 1, 1, 1, 1, 1, 0, 0)
    )


def steps_backward(words: Tensor, groups: int, geometry: tuple[int, ...], phases: tuple[int, int]) -> Tensor:
    """Lists for every `BLOCK` channels of a group the pairs of a tap and `SEGMENT` rows that are not empty, the tap
    first. int32 `[groups, phases, blocks, 1 + pairs]`: of the pixels whose place has the remainder (i, j) by the
    strides, phase `i * phases[1] + j`, only the taps that reach them."""
    rows, taps, per_tap = words.shape[0] // groups, *words.shape[1:]
    inner = (taps, rows, SEGMENT, per_tap, taps * per_tap)
    return _steps(words, groups, (per_tap, BLOCK // SEGMENT, 1), inner, geometry, phases)


def _steps(
    words: Tensor,
    groups: int,
    outer: tuple[int, int, int],
    inner: tuple[int, int, int, int, int],
    geometry: tuple[int, ...],
    phases: tuple[int, int] = (1, 1),
) -> Tensor:
    """Lists for every block of an outer extent the steps of an inner one that are not empty.

    Args:
        outer: extent, size of a block, stride in words.
        inner: parts, extent of a part, size of a step, strides of parts and within them.
    """
    (extent, block, _), (parts, part, step, *_) = outer, inner
    blocks, longest = triton.cdiv(extent, block), parts * triton.cdiv(part, step)
    steps = words.new_empty((groups, phases[0] * phases[1], blocks, 1 + longest), dtype=torch.int32)

    def grid(_: dict[str, int]) -> tuple[int, ...]:
        return blocks, phases[0] * phases[1], groups

    group = words.numel() // groups
    configs = [Config({"STEPS": 16}, warps=8)]
    constants = {"BLOCK": block, "STEP": step, "WINDOW": geometry, "PHASES": phases}
    launch(
        _occupied,
        grid,
        words,
        steps,
        group,
        longest,
        (extent, outer[2]),
        (part, *inner[3:]),
        configs=configs,
        **constants,
    )
    return steps


@triton.jit
def present(words, row, inside, at, left, shift, COLS: tl.constexpr, SEGMENT: tl.constexpr):
    """Tells which of the `COLS` columns from bit `shift` of the word `at` on exist in each row, `[rows, COLS]`. `row`
    is where the words of each begin, `left` how many words there are from `at` on: what lies beyond is absent."""
    lane = tl.arange(0, COLS)[None, :]
    word = tl.load(words + row + at, inside, 0)[:, None]
    if COLS > SEGMENT:
        word = tl.where(lane < SEGMENT, word, tl.load(words + row + at + 1, inside & (left > 1), 0)[:, None])
    return ((word >> ((lane + shift) % SEGMENT)) & 1) != 0


@triton.jit
def any_present(words, row, inside, at, left, COLS: tl.constexpr, SEGMENT: tl.constexpr):
    """Whether the words that `present` looks at have a bit. `present` follows the loop whose
    result it masks: computed before, it would occupy a register per entry."""
    word = tl.load(words + row + at, inside, 0)
    if COLS > SEGMENT:
        word |= tl.load(words + row + at + 1, inside & (left > 1), 0)
    return tl.max((word != 0).to(tl.int32), 0) != 0


@triton.jit
def _by_tap(bits, by_taps, rows, channels, segments, TAPS: tl.constexpr, ROWS: tl.constexpr, SEGMENT: tl.constexpr):
    """A gather of bits: of a sixteenth of the weight's bytes at 16 bits a weight, beside products with all of it."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    per_tap = tl.num_programs(1) // TAPS
    tap, first = tl.program_id(1) // per_tap, tl.program_id(1) % per_tap * SEGMENT
    lane = tl.arange(0, SEGMENT)[None, :]
    column = (first + lane) * TAPS + tap
    inside = (row < rows)[:, None] & (first + lane < channels)
    word = tl.load(bits + row[:, None] * segments + column // SEGMENT, inside, 0)
    bit = (word >> (column % SEGMENT)) & 1
    tl.store(by_taps + row * tl.num_programs(1) + tl.program_id(1), tl.sum(bit << lane.to(tl.int64), 1), row < rows)


@triton.jit
def _occupied(
    words,
    steps,
    group,
    longest,
    outer,
    inner,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    WINDOW: tl.constexpr,
    PHASES: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Reads each word once, an eighth of a byte for a weight, so that the products need no branch for an empty block:
    their loops stay pipelined."""
    extent, stride = outer
    part, part_stride, inner_stride = inner
    phase = tl.program_id(1)
    words += tl.program_id(2).to(tl.int64) * group
    block = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    line = (tl.program_id(2) * tl.num_programs(1) + phase) * tl.num_programs(0) + tl.program_id(0)
    steps += line.to(tl.int64) * (1 + longest)
    count = 0
    for first in range(0, longest, STEPS):
        step = first + tl.arange(0, STEPS)
        per_part = (part + STEP - 1) // STEP
        tap = step // per_part
        place = (step % per_part * STEP)[:, None, None] + tl.arange(0, STEP)[None, :, None]
        used = (step < longest) & reaches(tap, phase // PHASES[1], phase % PHASES[1], WINDOW)
        at = tap[:, None, None].to(tl.int64) * part_stride + place.to(tl.int64) * inner_stride
        inside = used[:, None, None] & (place < part) & (block < extent)
        found = tl.load(words + at + block.to(tl.int64) * stride, inside, 0) != 0
        seen = tl.max(tl.max(found.to(tl.int32), 2), 1)
        tl.store(steps + 1 + count + tl.cumsum(seen, 0) - seen, step, seen != 0)
        count += tl.sum(seen, 0)
    tl.store(steps, count)


@triton.jit
def reaches(tap, y, x, WINDOW: tl.constexpr):
    """Whether a tap of the kernel meets pixels whose place has these remainders by the strides."""
    down = y + WINDOW[4] - tap // WINDOW[1] * WINDOW[6]
    right = x + WINDOW[5] - tap % WINDOW[1] * WINDOW[7]
    return (down % WINDOW[2] == 0) & (right % WINDOW[3] == 0)

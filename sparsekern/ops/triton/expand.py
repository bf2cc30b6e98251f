"""Nonzeros into a dense panel and back: memory traffic, no arithmetic."""

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from ..columns import columns_of
from ..expand import expand_bits_reference
from ..index import SEGMENT
from .launch import Config, launch

WORD = tl.constexpr(SEGMENT)
COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)  # the interpreter knows no libdevice
CONFIGS = [Config({"BLOCK": 128}), Config({"BLOCK": 512})]
BITS_CONFIGS = [Config({"ROWS": 16}), Config({"ROWS": 4}), Config({"ROWS": 64}, warps=8)]


def expand(values: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, cols: int) -> Tensor:
    """Rows `start:stop` of the matrix, dense `[stop-start, cols]`."""
    col = columns_of(row_ptr, col, cols, len(values))
    dense = values.new_zeros(stop - start, cols)
    launch(_scatter, lambda _: (stop - start,), values, row_ptr, col, dense, start, cols, configs=CONFIGS)
    return dense


def collect(dense: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, out: Tensor) -> None:
    """Writes the active entries of `dense` (rows `start:stop` of a matrix) into their slots of `out`."""
    col, strides = columns_of(row_ptr, col, dense.shape[1], len(out)), dense.stride()
    launch(_gather, lambda _: (stop - start,), dense, row_ptr, col, out, start, *strides, configs=CONFIGS)


def expand_bits(values: Tensor, pointers: Tensor, bits: Tensor, start: int, stop: int, cols: int) -> Tensor:
    """Rows `start:stop` of the matrix in one pass that writes every entry once, if `pointers` are those of segments."""
    if pointers.dim() == 1:  # of rows, where a layer was laid out for the CPU: not on the way of a step
        return expand_bits_reference(values, pointers, bits, start, stop, cols)
    dense = values.new_empty(stop - start, cols)
    segments = bits.shape[1]

    def grid(blocks: dict[str, int]) -> tuple[int, ...]:
        return triton.cdiv(stop - start, blocks["ROWS"]), segments

    launch(_decode, grid, values, pointers, bits, dense, start, stop, cols, segments, configs=BITS_CONFIGS)
    return dense


@triton.jit
def _scatter(values, row_ptr, col, dense, start, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    first, last = tl.load(row_ptr + start + row), tl.load(row_ptr + start + row + 1)
    line = dense + row.to(tl.int64) * cols
    for k in range(first, last, BLOCK):
        slots = k + tl.arange(0, BLOCK)
        used = slots < last
        tl.store(line + tl.load(col + slots, used), tl.load(values + slots, used), used)


@triton.jit
def _gather(dense, row_ptr, col, out, start, row_stride, col_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    first, last = tl.load(row_ptr + start + row), tl.load(row_ptr + start + row + 1)
    line = dense + row.to(tl.int64) * row_stride
    for k in range(first, last, BLOCK):
        slots = k + tl.arange(0, BLOCK)
        used = slots < last
        entries = tl.load(line + tl.load(col + slots, used).to(tl.int64) * col_stride, used)
        tl.store(out + slots, entries.to(out.dtype.element_ty), used)


@triton.jit
def popcount(words):
    """Number of bits set in each 64-bit word, int32."""
    if COMPILED:
        count = libdevice.popc(words)
    else:
        words = words - ((words >> 1) & 0x5555555555555555)
        words = (words & 0x3333333333333333) + ((words >> 2) & 0x3333333333333333)
        words = (words + (words >> 4)) & 0x0F0F0F0F0F0F0F0F
        count = (((words * 0x0101010101010101) >> 56) & 0xFF).to(tl.int32)
    return count


@triton.jit
def quads(segment_ptr, bits, row, valid, first, segments, COLS: tl.constexpr):
    """Returns for `COLS` columns from `first` (a multiple of 4) on, four by four: the position of the first of the four
    and, as the lowest four bits, which of them exist, both `[rows, COLS / 4]`. The rows and `valid` are `[rows, 1]`.

    Counting bits is slow (16 words a clock and multiprocessor): one count serves four columns."""
    column = first + 4 * tl.arange(0, COLS // 4)[None, :]
    segment, shift = column // WORD, (column % WORD).to(tl.int64)
    valid = valid & (segment < segments)
    word = tl.load(bits + row.to(tl.int64) * segments + segment, valid, 0)
    slot = tl.load(segment_ptr + row.to(tl.int64) * (segments + 1) + segment, valid, 0)
    below = (tl.full([1, 1], 1, tl.int64) << shift) - 1
    return slot + popcount(word & below), (word >> shift).to(tl.int32)


@triton.jit
def decoded(values, slot, four, ROWS: tl.constexpr, COLS: tl.constexpr):
    """The entries at `quads`, zero where none exists: `[ROWS, COLS]`."""
    one, two, three = four & 1, (four >> 1) & 1, (four >> 2) & 1
    a = tl.load(values + slot, one != 0, 0)
    b = tl.load(values + (slot + one), two != 0, 0)
    c = tl.load(values + (slot + one + two), three != 0, 0)
    d = tl.load(values + (slot + one + two + three), (four & 8) != 0, 0)
    return tl.join(tl.join(a, c), tl.join(b, d)).reshape(ROWS, COLS)


@triton.jit
def store_active(out, slot, four, dense, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Stores the entries of `dense` `[ROWS, COLS]` that exist, in their slots."""
    dense = dense.to(out.dtype.element_ty)
    even, odd = tl.split(dense.reshape(ROWS, COLS // 4, 2, 2))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    one, two, three = four & 1, (four >> 1) & 1, (four >> 2) & 1
    tl.store(out + slot, a, one != 0)
    tl.store(out + (slot + one), b, two != 0)
    tl.store(out + (slot + one + two), c, three != 0)
    tl.store(out + (slot + one + two + three), d, (four & 8) != 0)


@triton.jit
def _decode(values, segment_ptr, bits, dense, start, stop, cols, segments, ROWS: tl.constexpr):
    row = start + tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    first = tl.program_id(1) * WORD
    valid = row < stop
    slot, four = quads(segment_ptr, bits, row, valid, first, segments, WORD)
    column = first + tl.arange(0, WORD)[None, :]
    target = dense + (row - start).to(tl.int64) * cols + column
    tl.store(target, decoded(values, slot, four, ROWS, WORD), valid & (column < cols))

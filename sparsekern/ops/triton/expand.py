"""Nonzeros into a dense panel and back: memory traffic, no arithmetic."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from ..schema import TILE
from .launch import Config, launch

COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)  # the interpreter knows no libdevice
CONFIGS = [Config({"BLOCK": 128}), Config({"BLOCK": 512})]
BITS_CONFIGS = [Config({"ROWS": 16}), Config({"ROWS": 4}), Config({"ROWS": 64}, warps=8)]


def expand(values: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, cols: int) -> Tensor:
    """Rows `start:stop` of the matrix, dense `[stop-start, cols]`."""
    dense = values.new_zeros(stop - start, cols)
    launch(_scatter, lambda _: (stop - start,), values, row_ptr, col, dense, start, cols, configs=CONFIGS)
    return dense


def collect(dense: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, out: Tensor) -> None:
    """Writes the active entries of `dense` (rows `start:stop` of a matrix) into their slots of `out`."""
    strides = dense.stride()
    launch(_gather, lambda _: (stop - start,), dense, row_ptr, col, out, start, *strides, configs=CONFIGS)


def expand_bits(values: Tensor, tile_ptr: Tensor, bits: Tensor, start: int, stop: int, cols: int) -> Tensor:
    """Rows `start:stop` of the matrix in one pass that writes every entry once."""
    dense = values.new_empty(stop - start, cols)
    tiles = bits.shape[1]

    def grid(blocks: dict[str, int]) -> tuple[int, ...]:
        return triton.cdiv(stop - start, blocks["ROWS"]), tiles

    launch(_decode, grid, values, tile_ptr, bits, dense, start, stop, cols, tiles, configs=BITS_CONFIGS, TILE=TILE)
    return dense


def bit_index(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Which columns of every segment of `TILE` exist: int64 `[rows, tiles]`, the lowest bit first."""
    rows, tiles = row_ptr.shape[0] - 1, (cols + TILE - 1) // TILE
    words = torch.zeros(rows, tiles, dtype=torch.int64, device=col.device)
    # A row belongs to one program, but two of its lanes may meet in one word.
    launch(_set_bits, lambda _: (rows,), row_ptr, col, words, tiles, configs=CONFIGS, TILE=TILE)
    return words


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
def ranks(words, columns):
    """Of the columns of a segment: which exist, and how many exist before them. The words are `[rows, 1]`."""
    below = words & ((tl.full([1, 1], 1, tl.int64) << columns) - 1)
    return ((words >> columns) & 1) != 0, popcount(below)


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
def _decode(values, tile_ptr, bits, dense, start, stop, cols, tiles, ROWS: tl.constexpr, TILE: tl.constexpr):
    row = start + tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    tile = tl.program_id(1)
    lane = tl.arange(0, TILE)[None, :].to(tl.int64)
    valid = row < stop
    words = tl.load(bits + row.to(tl.int64) * tiles + tile, valid, 0)
    first = tl.load(tile_ptr + row.to(tl.int64) * (tiles + 1) + tile, valid, 0)
    exists, rank = ranks(words, lane)
    entries = tl.load(values + first + rank, exists, 0)
    column = tile * TILE + lane
    tl.store(dense + (row - start).to(tl.int64) * cols + column, entries, valid & (column < cols))


@triton.jit
def _set_bits(row_ptr, col, words, tiles, BLOCK: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0)
    first, last = tl.load(row_ptr + row), tl.load(row_ptr + row + 1)
    line = words + row.to(tl.int64) * tiles
    for k in range(first, last, BLOCK):
        slots = k + tl.arange(0, BLOCK)
        used = slots < last
        columns = tl.load(col + slots, used, 0)
        bit = tl.full([BLOCK], 1, tl.int64) << (columns % TILE).to(tl.int64)
        tl.atomic_or(line + columns // TILE, bit, used, sem="relaxed")

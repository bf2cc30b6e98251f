"""Patterns from masks and the pointers into their rows, without a look of the host at a count."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..schema import TILE
from .launch import Config, launch

ROW_CONFIGS = [Config({"BLOCK": 512}), Config({"BLOCK": 128}), Config({"BLOCK": 2048}, warps=8)]
TILE_CONFIGS = [Config({"BLOCK": 64}, warps=2), Config({"BLOCK": 256})]


def compress_mask(mask: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """CSR pattern of a mask `[rows, cols]` of any strides. What does not fit the capacity is left out of it."""
    rows, cols = mask.shape
    if not 0 <= capacity < 2**31 - 1:
        raise ValueError(f"capacity must be below 2**31 - 1, got {capacity}")
    row_ptr = torch.zeros(rows + 1, dtype=torch.int32, device=mask.device)
    row_ptr[1:] = mask.sum(1).cumsum(0).clamp_(max=capacity)
    col = torch.zeros(capacity, dtype=torch.int32, device=mask.device)
    launch(_columns, lambda _: (rows,), mask.view(torch.uint8), row_ptr, col, cols, *mask.stride(), configs=ROW_CONFIGS)
    return row_ptr, col


def tile_index(ptr: Tensor, index: Tensor, extent: int) -> Tensor:
    """Where, in each row, the segment of every `TILE` consecutive columns starts: `[rows, tiles + 1]`."""
    rows, tiles = ptr.shape[0] - 1, (extent + TILE - 1) // TILE
    starts = torch.empty(rows, tiles + 1, dtype=torch.int32, device=index.device)

    def grid(blocks: dict[str, int]) -> tuple[int, ...]:
        return rows, triton.cdiv(tiles + 1, blocks["BLOCK"])

    launch(_starts, grid, ptr, index, starts, tiles + 1, extent.bit_length(), configs=TILE_CONFIGS, TILE=TILE)
    return starts


@triton.jit
def _columns(mask, row_ptr, col, cols, row_stride, col_stride, BLOCK: tl.constexpr):
    """A row of the mask is read once, its columns are written one after another."""
    row = tl.program_id(0)
    slot, last = tl.load(row_ptr + row), tl.load(row_ptr + row + 1)
    line = mask + row.to(tl.int64) * row_stride
    for start in range(0, cols, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        exists = tl.load(line + columns.to(tl.int64) * col_stride, columns < cols, 0).to(tl.int32)
        slots = slot + tl.cumsum(exists) - exists
        tl.store(col + slots, columns, (exists != 0) & (slots < last))
        slot += tl.sum(exists)


@triton.jit
def _starts(ptr, index, starts, n, steps, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """Binary search in the sorted columns of a row, for many tiles at once."""
    row = tl.program_id(0)
    tile = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    low = tl.load(ptr + row) + tl.zeros([BLOCK], tl.int32)
    high = tl.load(ptr + row + 1) + tl.zeros([BLOCK], tl.int32)
    for _ in range(steps):
        middle = low + (high - low) // 2
        open = low < high
        below = tl.load(index + middle, open, 0) < tile * TILE
        low = tl.where(open & below, middle + 1, low)
        high = tl.where(open & ~below, middle, high)
    tl.store(starts + row.to(tl.int64) * n + tile, low, tile < n)

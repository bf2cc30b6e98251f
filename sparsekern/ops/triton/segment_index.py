"""The starts of the segments of every row."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..index import SEGMENT
from .launch import Config, launch

CONFIGS = [Config({"BLOCK": 64}, warps=2), Config({"BLOCK": 256})]


def segment_index(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Finds where in each row the segment of every `SEGMENT` consecutive columns starts: `[rows, segments + 1]`."""
    rows, segments = row_ptr.shape[0] - 1, (cols + SEGMENT - 1) // SEGMENT
    starts = torch.empty(rows, segments + 1, dtype=torch.int32, device=col.device)

    def grid(blocks: dict[str, int]) -> tuple[int, ...]:
        return rows, triton.cdiv(segments + 1, blocks["BLOCK"])

    launch(_starts, grid, row_ptr, col, starts, segments + 1, cols.bit_length(), configs=CONFIGS, SEGMENT=SEGMENT)
    return starts


@triton.jit
def _starts(row_ptr, col, starts, n, steps, BLOCK: tl.constexpr, SEGMENT: tl.constexpr):
    """Binary search in the sorted columns of a row, for many segments at once."""
    row = tl.program_id(0)
    segment = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    low = tl.load(row_ptr + row) + tl.zeros([BLOCK], tl.int32)
    high = tl.load(row_ptr + row + 1) + tl.zeros([BLOCK], tl.int32)
    for _ in range(steps):
        middle = low + (high - low) // 2
        open = low < high
        below = tl.load(col + middle, open, 0) < segment * SEGMENT
        low = tl.where(open & below, middle + 1, low)
        high = tl.where(open & ~below, middle, high)
    tl.store(starts + row.to(tl.int64) * n + segment, low, segment < n)

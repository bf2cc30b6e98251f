"""A pattern as a bitmask."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..index import SEGMENT
from .launch import Config, launch

CONFIGS = [Config({"BLOCK": 128}), Config({"BLOCK": 512})]


def bit_index(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Marks the columns that exist in every segment of `SEGMENT`: int64 `[rows, segments]`, the lowest bit first."""
    rows, segments = row_ptr.shape[0] - 1, (cols + SEGMENT - 1) // SEGMENT
    words = torch.zeros(rows, segments, dtype=torch.int64, device=col.device)
    # A row belongs to one program, but two of its lanes may meet in one word.
    launch(_set_bits, lambda _: (rows,), row_ptr, col, words, segments, configs=CONFIGS, SEGMENT=SEGMENT)
    return words


@triton.jit
def _set_bits(row_ptr, col, words, segments, BLOCK: tl.constexpr, SEGMENT: tl.constexpr):
    row = tl.program_id(0)
    first, last = tl.load(row_ptr + row), tl.load(row_ptr + row + 1)
    line = words + row.to(tl.int64) * segments
    for k in range(first, last, BLOCK):
        slots = k + tl.arange(0, BLOCK)
        used = slots < last
        columns = tl.load(col + slots, used, 0)
        bit = tl.full([BLOCK], 1, tl.int64) << (columns % SEGMENT).to(tl.int64)
        tl.atomic_or(line + columns // SEGMENT, bit, used, sem="relaxed")

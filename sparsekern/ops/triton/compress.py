"""A pattern from a mask, without a look of the host at its count."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Config, launch

CONFIGS = [Config({"BLOCK": 512}), Config({"BLOCK": 128}), Config({"BLOCK": 2048}, warps=8)]


def compress_mask(mask: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """CSR pattern of a mask `[rows, cols]` of any strides. What does not fit the capacity is left out of it."""
    rows, cols = mask.shape
    if not 0 <= capacity < 2**31 - 1:
        raise ValueError(f"capacity must be below 2**31 - 1, got {capacity}")
    row_ptr = torch.zeros(rows + 1, dtype=torch.int32, device=mask.device)
    row_ptr[1:] = mask.sum(1).cumsum(0).clamp_(max=capacity)
    col = torch.zeros(capacity, dtype=torch.int32, device=mask.device)
    launch(_columns, lambda _: (rows,), mask.view(torch.uint8), row_ptr, col, cols, *mask.stride(), configs=CONFIGS)
    return row_ptr, col


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

"""A CSR pattern as a bitmask: `bit_index`, and back: `bit_columns`."""

import torch
from torch import Tensor

from .csr import check_extent, check_host, rows_of
from .index import SEGMENT
from .library import define


def bit_index(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Returns a CSR pattern as a bitmask: int64 `[rows, segments]`, for each segment of 64 columns a word, the first of
    them the lowest bit. Arguments and errors are those of `transpose_index`."""
    check_extent(row_ptr, col, cols)
    return torch.ops.sparsekern.bit_index(row_ptr, col, cols)


def bit_columns(row_ptr: Tensor, bits: Tensor, cols: int, capacity: int) -> Tensor:
    """Returns the columns of a bitmask, int32 `[capacity]`, zero in the slack: the inverse of `bit_index`.

    Args:
        row_ptr: int32 `[rows + 1]`.
        bits: int64 `[rows, segments]`, for `cols` columns.

    Raises:
        ValueError: a row has not as many bits as `row_ptr` says, or there are more than `capacity`.
    """
    return torch.ops.sparsekern.bit_columns(row_ptr, bits, cols, capacity)


def bit_mask(bits: Tensor, cols: int) -> Tensor:
    """Returns a bitmask as bool `[rows, cols]`, contiguous. The result is all the memory that is needed, if rows are
    whole words."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    powers = torch.ones_like(places) << places
    mask = bits.contiguous().view(torch.uint8).unsqueeze(-1).bitwise_and(powers).ne_(0)
    return mask.view(torch.bool).flatten(1)[:, :cols].contiguous()


def bit_index_reference(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Returns which columns of every segment of `SEGMENT` exist: int64 `[rows, segments]`, the lowest bit first."""
    check_host(row_ptr, col, cols)
    rows, segments = row_ptr.numel() - 1, (cols + SEGMENT - 1) // SEGMENT
    mask = torch.zeros(rows, segments * SEGMENT, dtype=torch.bool, device=col.device)
    mask[rows_of(row_ptr), col[: int(row_ptr[-1])].long()] = True
    powers = torch.ones(SEGMENT, dtype=torch.int64, device=col.device) << torch.arange(SEGMENT, device=col.device)
    return (mask.view(rows, segments, SEGMENT) * powers).sum(2)


def bit_index_fake(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    return col.new_empty((row_ptr.shape[0] - 1, (cols + SEGMENT - 1) // SEGMENT), dtype=torch.int64)


def bit_columns_reference(row_ptr: Tensor, bits: Tensor, cols: int, capacity: int) -> Tensor:
    """Returns which columns exist, row by row: int32 `[capacity]`."""
    mask = bit_mask(bits, cols)
    if bits.device.type == "cpu":
        if not torch.equal(mask.sum(1), row_ptr.diff()):
            raise ValueError("each row of bits must have as many set bits as row_ptr gives it nonzeros")
        if int(row_ptr[-1]) > capacity:
            raise ValueError(f"capacity must be at least {int(row_ptr[-1])}, got {capacity}")
    col = torch.zeros(capacity, dtype=torch.int32, device=bits.device)
    found = mask.nonzero()[:, 1]
    col[: found.numel()] = found.to(torch.int32)
    return col


def bit_columns_fake(row_ptr: Tensor, bits: Tensor, cols: int, capacity: int) -> Tensor:
    return row_ptr.new_empty(capacity)


define(
    "bit_index(Tensor row_ptr, Tensor col, SymInt cols) -> Tensor",
    reference=bit_index_reference,
    fake=bit_index_fake,
)
define(
    "bit_columns(Tensor row_ptr, Tensor bits, SymInt cols, SymInt capacity) -> Tensor",
    reference=bit_columns_reference,
    fake=bit_columns_fake,
)

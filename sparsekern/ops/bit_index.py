"""A CSR pattern as a bitmask: `bit_index`."""

import torch
from torch import Tensor

from .csr import check_extent, check_host, rows_of
from .index import TILE
from .library import define


def bit_index(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Returns a CSR pattern as a bitmask: int64 `[rows, tiles]`, for each segment of 64 columns a word, the first of
    them the lowest bit. The errors are those of `transpose_index`."""
    check_extent(row_ptr, col, cols)
    return torch.ops.sparsekern.bit_index(row_ptr, col, cols)


def bit_index_reference(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Returns which columns of every segment of `TILE` exist: int64 `[rows, tiles]`, the lowest bit first."""
    check_host(row_ptr, col, cols)
    rows, tiles = row_ptr.numel() - 1, (cols + TILE - 1) // TILE
    mask = torch.zeros(rows, tiles * TILE, dtype=torch.bool, device=col.device)
    mask[rows_of(row_ptr), col[: int(row_ptr[-1])].long()] = True
    powers = torch.ones(TILE, dtype=torch.int64, device=col.device) << torch.arange(TILE, device=col.device)
    return (mask.view(rows, tiles, TILE) * powers).sum(2)


def bit_index_fake(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    return col.new_empty((row_ptr.shape[0] - 1, (cols + TILE - 1) // TILE), dtype=torch.int64)


define(
    "bit_index(Tensor row_ptr, Tensor col, SymInt cols) -> Tensor",
    reference=bit_index_reference,
    fake=bit_index_fake,
)

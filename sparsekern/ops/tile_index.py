"""The starts of the segments of every row: `tile_index`."""

import torch
from torch import Tensor

from .csr import check_extent, check_host, rows_of
from .index import TILE
from .library import define


def tile_index(ptr: Tensor, index: Tensor, extent: int) -> Tensor:
    """Returns where each segment of 64 consecutive columns starts in every row, and where the row ends: int32
    `[rows, tiles + 1]`. Arguments and errors are those of `transpose_index`: `ptr`, `index` and `extent` are its
    `row_ptr`, `col` and `cols`."""
    check_extent(ptr, index, extent, "ptr", "index", "extent")
    return torch.ops.sparsekern.tile_index(ptr, index, extent)


def tile_index_reference(ptr: Tensor, index: Tensor, extent: int) -> Tensor:
    """Returns where, in each row, the segment of every `TILE` columns starts: `[rows, tiles + 1]`."""
    check_host(ptr, index, extent, "ptr", "index")
    rows, nnz = ptr.numel() - 1, int(ptr[-1])
    tiles = (extent + TILE - 1) // TILE
    segment = rows_of(ptr) * tiles + torch.div(index[:nnz].long(), TILE, rounding_mode="floor")
    counts = torch.bincount(segment, minlength=rows * tiles).reshape(rows, tiles)
    starts = torch.cat([counts.new_zeros(rows, 1), counts.cumsum(1)], dim=1)
    return (starts + ptr[:-1, None]).to(torch.int32)


def tile_index_fake(ptr: Tensor, index: Tensor, extent: int) -> Tensor:
    return index.new_empty((ptr.shape[0] - 1, (extent + TILE - 1) // TILE + 1))


define(
    "tile_index(Tensor ptr, Tensor index, SymInt extent) -> Tensor",
    reference=tile_index_reference,
    fake=tile_index_fake,
)

"""The starts of the segments of every row: `segment_index`."""

import torch
from torch import Tensor

from .csr import check_extent, check_host, rows_of
from .index import SEGMENT
from .library import define


def segment_index(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Returns where each segment of 64 consecutive columns starts in every row, and where the row ends: int32
    `[rows, segments + 1]`. Arguments and errors are those of `transpose_index`."""
    check_extent(row_ptr, col, cols)
    return torch.ops.sparsekern.segment_index(row_ptr, col, cols)


def segment_index_reference(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Returns where, in each row, the segment of every `SEGMENT` columns starts: `[rows, segments + 1]`."""
    check_host(row_ptr, col, cols)
    rows, nnz = row_ptr.numel() - 1, int(row_ptr[-1])
    segments = (cols + SEGMENT - 1) // SEGMENT
    segment = rows_of(row_ptr) * segments + torch.div(col[:nnz].long(), SEGMENT, rounding_mode="floor")
    counts = torch.bincount(segment, minlength=rows * segments).reshape(rows, segments)
    starts = torch.cat([counts.new_zeros(rows, 1), counts.cumsum(1)], dim=1)
    return (starts + row_ptr[:-1, None]).to(torch.int32)


def segment_index_fake(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    return col.new_empty((row_ptr.shape[0] - 1, (cols + SEGMENT - 1) // SEGMENT + 1))


define(
    "segment_index(Tensor row_ptr, Tensor col, SymInt cols) -> Tensor",
    reference=segment_index_reference,
    fake=segment_index_fake,
)

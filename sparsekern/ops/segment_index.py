"""The starts of the segments of every row: `segment_index`."""

import torch
from torch import Tensor

from .csr import check_extent, check_host, rows_of
from .index import SEGMENT
from .library import define


def segment_index(ptr: Tensor, index: Tensor, extent: int) -> Tensor:
    """Returns where each segment of 64 consecutive columns starts in every row, and where the row ends: int32
    `[rows, segments + 1]`. Arguments and errors are those of `transpose_index`: `ptr`, `index` and `extent` are its
    `row_ptr`, `col` and `cols`."""
    check_extent(ptr, index, extent, "ptr", "index", "extent")
    return torch.ops.sparsekern.segment_index(ptr, index, extent)


def segment_index_reference(ptr: Tensor, index: Tensor, extent: int) -> Tensor:
    """Returns where, in each row, the segment of every `SEGMENT` columns starts: `[rows, segments + 1]`."""
    check_host(ptr, index, extent, "ptr", "index")
    rows, nnz = ptr.numel() - 1, int(ptr[-1])
    segments = (extent + SEGMENT - 1) // SEGMENT
    segment = rows_of(ptr) * segments + torch.div(index[:nnz].long(), SEGMENT, rounding_mode="floor")
    counts = torch.bincount(segment, minlength=rows * segments).reshape(rows, segments)
    starts = torch.cat([counts.new_zeros(rows, 1), counts.cumsum(1)], dim=1)
    return (starts + ptr[:-1, None]).to(torch.int32)


def segment_index_fake(ptr: Tensor, index: Tensor, extent: int) -> Tensor:
    return index.new_empty((ptr.shape[0] - 1, (extent + SEGMENT - 1) // SEGMENT + 1))


define(
    "segment_index(Tensor ptr, Tensor index, SymInt extent) -> Tensor",
    reference=segment_index_reference,
    fake=segment_index_fake,
)

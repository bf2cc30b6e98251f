"""The columns of a pattern in any of the forms that hold them: a vector, a bitmask (`bit_index`), a compact index
(`tile_pattern`, `narrow_pattern`)."""

import torch
from torch import Tensor

from .bit_index import bit_columns
from .compact_columns import compact_columns
from .index import Index


def columns_of(row_ptr: Tensor, columns: Tensor, cols: int, capacity: int) -> Tensor:
    """Returns the column of each position, int32 `[capacity]`; `columns` itself, if it is that."""
    if columns.dtype == torch.uint8:
        return compact_columns(row_ptr, columns, cols, capacity)
    return bit_columns(row_ptr, columns, cols, capacity) if columns.dim() == 2 else columns


def with_columns(index: Index) -> Index:
    """Returns an index with `col`; itself, if it has it."""
    if index.col.dim() == 1:
        return index
    return index._replace(col=columns_of(index.row_ptr, index.columns, index.cols, index.capacity))

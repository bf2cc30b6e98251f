"""The transposed (CSC) index of a CSR pattern: `transpose_index`."""

import torch
from torch import Tensor

from .csr import check_extent, check_host
from .library import define


def transpose_index(row_ptr: Tensor, col: Tensor, cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """Makes the transposed (CSC) index of a CSR pattern: `t_ptr` int32 `[cols + 1]`, and for each of its positions the
    row and the position in `values`, both int32 `[capacity]`.

    Args:
        row_ptr: int32 `[rows + 1]`.
        col: int32 `[capacity]`, ascending within a row.
        cols: the number of columns.

    Raises:
        ValueError: this is no CSR pattern of so many columns; on a GPU only dtypes and dimensions are checked.
    """
    check_extent(row_ptr, col, cols)
    return torch.ops.sparsekern.transpose_index(row_ptr, col, cols)


def transpose_index_reference(row_ptr: Tensor, col: Tensor, cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """`t_ptr [cols+1]`, and for each position of the transposed index its row and its position in `values`."""
    check_host(row_ptr, col, cols)
    nnz = int(row_ptr[-1])
    t_ptr = torch.zeros(cols + 1, dtype=torch.int32, device=col.device)
    t_ptr[1:] = torch.bincount(col[:nnz], minlength=cols).cumsum(0)
    t_row, t_pos = torch.zeros_like(col), torch.zeros_like(col)
    t_pos[:nnz] = torch.argsort(col[:nnz], stable=True)
    t_row[:nnz] = torch.searchsorted(row_ptr[1:], t_pos[:nnz], right=True, out_int32=True)
    return t_ptr, t_row, t_pos


def transpose_index_fake(row_ptr: Tensor, col: Tensor, cols: int) -> tuple[Tensor, Tensor, Tensor]:
    return col.new_empty((cols + 1,)), torch.empty_like(col), torch.empty_like(col)


define(
    "transpose_index(Tensor row_ptr, Tensor col, SymInt cols) -> (Tensor, Tensor, Tensor)",
    reference=transpose_index_reference,
    fake=transpose_index_fake,
)

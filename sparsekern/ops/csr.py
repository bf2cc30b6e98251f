"""What a CSR pattern that comes from outside has to be."""

import torch
from torch import Tensor


def check_pattern(row_ptr: Tensor, col: Tensor, cols: int, pointers: str = "row_ptr", columns: str = "col") -> None:
    """Refuses what is no CSR pattern, of integers of any width. O(nnz); waits for the device.

    Raises:
        ValueError: `row_ptr` does not ascend from 0, or not to the length of `col` at most; a column that does not lie
            in [0, cols), or is not behind the one before it in its row.
    """
    check_vectors(row_ptr, col, pointers, columns, dtypes=(torch.int32, torch.int64))
    if int(row_ptr[0]) != 0 or bool((row_ptr[1:] < row_ptr[:-1]).any()):
        raise ValueError(f"{pointers} must ascend from 0")
    nnz = int(row_ptr[-1])
    if nnz > col.numel():
        raise ValueError(f"{columns} must have at least {nnz} elements, got {col.numel()}")
    used = col[:nnz]
    if nnz and not 0 <= int(used.min()) <= int(used.max()) < cols:
        raise ValueError(f"{columns} must lie in [0, {cols}), got {int(used.min())} to {int(used.max())}")
    falls = (used[1:] <= used[:-1]).nonzero().flatten() + 1
    if not bool(torch.isin(falls, row_ptr).all()):
        raise ValueError(f"{columns} must ascend within each row")


def check_host(row_ptr: Tensor, col: Tensor, cols: int, pointers: str = "row_ptr", columns: str = "col") -> None:
    """`check_pattern`, unless a device would have to be waited for."""
    if col.device.type == "cpu":
        check_pattern(row_ptr, col, cols, pointers, columns)


def check_vectors(
    row_ptr: Tensor,
    col: Tensor,
    pointers: str = "row_ptr",
    columns: str = "col",
    dtypes: tuple[torch.dtype, ...] = (torch.int32,),
) -> None:
    """Looks at metadata only.

    Raises:
        ValueError: the tensors are no vectors of whole numbers on one device, or there are no pointers.
    """
    for name, tensor in ((pointers, row_ptr), (columns, col)):
        if tensor.dtype not in dtypes or tensor.dim() != 1:
            raise ValueError(f"{name} must be a 1-D {dtypes[0]} tensor, got {tensor.dtype} {tuple(tensor.shape)}")
    if not row_ptr.numel():
        raise ValueError(f"{pointers} must have at least 1 element, got none")
    if row_ptr.device != col.device:
        raise ValueError(f"{pointers} and {columns} must be on one device, got {row_ptr.device} and {col.device}")

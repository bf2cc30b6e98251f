"""CSR patterns: checks of those that come from outside, and what every reference asks of them."""

import torch
from torch import Tensor


def rows_of(row_ptr: Tensor, nnz: int | None = None) -> Tensor:
    """Returns the row of every position in use, int64 `[nnz]`; if `nnz` is given, the device is not asked for it."""
    return torch.repeat_interleave(row_ptr.diff().long(), output_size=nnz)


def flat_coordinates(row_ptr: Tensor, col: Tensor, cols: int, nnz: int | None = None) -> Tensor:
    """Returns `coordinates` of a pattern that is known to be one: `r * cols + c` of every position in use, int64
    `[nnz]`."""
    nnz = int(row_ptr[-1]) if nnz is None else nnz
    return rows_of(row_ptr, nnz).mul_(cols).add_(col[:nnz])


def check_pattern(row_ptr: Tensor, col: Tensor, cols: int, columns: str = "col") -> None:
    """Checks a CSR pattern of integers of any width. O(nnz); waits for the device.

    Raises:
        ValueError: `row_ptr` does not ascend from 0, or not to the length of `col` at most; a column that does not lie
            in [0, cols), or is not behind the one before it in its row.
    """
    check_vectors(row_ptr, col, (torch.int32, torch.int64))
    if int(row_ptr[0]) != 0 or bool((row_ptr[1:] < row_ptr[:-1]).any()):
        raise ValueError("row_ptr must ascend from 0")
    nnz = int(row_ptr[-1])
    if nnz > col.numel():
        raise ValueError(f"{columns} must have at least {nnz} elements, got {col.numel()}")
    used = col[:nnz]
    if nnz and not 0 <= int(used.min()) <= int(used.max()) < cols:
        raise ValueError(f"{columns} must lie in [0, {cols}), got {int(used.min())} to {int(used.max())}")
    falls = (used[1:] <= used[:-1]).nonzero().flatten() + 1
    if not bool(torch.isin(falls, row_ptr).all()):
        raise ValueError(f"{columns} must ascend within each row")


def check_host(row_ptr: Tensor, col: Tensor, cols: int, columns: str = "col") -> None:
    """Does what `check_pattern` does, unless a device would have to be waited for."""
    if col.device.type == "cpu":
        check_pattern(row_ptr, col, cols, columns)


def check_vectors(row_ptr: Tensor, col: Tensor, dtypes: tuple[torch.dtype, ...] = (torch.int32,)) -> None:
    """Checks dtypes, dimensions and devices of a pattern, which are metadata.

    Raises:
        ValueError: the tensors are no integer vectors on one device, or there are no pointers.
    """
    for name, tensor in (("row_ptr", row_ptr), ("col", col)):
        if tensor.dtype not in dtypes or tensor.dim() != 1:
            raise ValueError(f"{name} must be a 1-D {dtypes[0]} tensor, got {tensor.dtype} {tuple(tensor.shape)}")
    if not row_ptr.numel():
        raise ValueError("row_ptr must have at least 1 element, got none")
    if row_ptr.device != col.device:
        raise ValueError(f"row_ptr and col must be on one device, got {row_ptr.device} and {col.device}")


def check_extent(row_ptr: Tensor, col: Tensor, cols: int) -> None:
    """Does what `check_vectors` does, and checks that there are fewer than 2**31 columns.

    Raises:
        ValueError: one of them fails.
    """
    check_vectors(row_ptr, col)
    if not 0 <= cols < 2**31:
        raise ValueError(f"cols must be at least 0 and below 2**31, got {cols}")


def check_vector(tensor: Tensor, name: str, dtype: torch.dtype) -> None:
    """Checks dtype and dimension.

    Raises:
        ValueError: they are others.
    """
    if tensor.dtype != dtype or tensor.dim() != 1:
        raise ValueError(f"{name} must be a 1-D {dtype} tensor, got {tensor.dtype} {tuple(tensor.shape)}")

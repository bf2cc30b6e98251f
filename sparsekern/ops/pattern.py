"""Sparsity patterns as flat tensors: made, changed, listed, and walked by columns and tiles."""

import torch
from torch import Tensor

from . import reference
from .csr import check_host, check_vectors

_ops = torch.ops.sparsekern


def compress(coordinates: Tensor, rows: int, cols: int, capacity: int | None = None) -> tuple[Tensor, Tensor]:
    """CSR pattern of a `rows x cols` matrix from its flat coordinates `r * cols + c`.

    Args:
        coordinates: int64 `[nnz]`, distinct, in any order; ascending ones need no memory beyond the result.
        capacity: length of `col`, `nnz` by default.

    Returns:
        `row_ptr` int32 `[rows + 1]` and `col` int32 `[capacity]`, zero in the slack.

    Raises:
        ValueError: coordinates that are not int64 `[nnz]`, in range and distinct; a capacity below `nnz`; an extent or
            capacity beyond 31 bits.
    """
    _vector(coordinates, "coordinates", torch.int64)
    if not (0 <= rows < 2**31 and 0 <= cols < 2**31):
        raise ValueError(f"rows and columns must be below 2**31, got {rows} x {cols}")
    return _ops.compress(coordinates, rows, cols, coordinates.numel() if capacity is None else capacity)


def compress_mask(mask: Tensor, capacity: int | None = None) -> tuple[Tensor, Tensor]:
    """CSR pattern of the entries of a mask that are True.

    Args:
        mask: bool `[rows, cols]`.
        capacity: length of `col`, the number of such entries by default.

    Returns:
        As `compress`.

    Raises:
        ValueError: a mask that is not bool `[rows, cols]`; a capacity below its count, or beyond 31 bits. On a GPU a
            given capacity is not compared with the count, which the host does not know; what exceeds it is left out.
    """
    if mask.dtype != torch.bool or mask.dim() != 2:
        raise ValueError(f"mask must be bool [rows, cols], got {mask.dtype} {tuple(mask.shape)}")
    return _ops.compress_mask(mask, int(mask.count_nonzero()) if capacity is None else capacity)


def coordinates(row_ptr: Tensor, col: Tensor, cols: int, nnz: int | None = None) -> Tensor:
    """Flat coordinates `r * cols + c` of a CSR pattern, int64 `[nnz]`, ascending: the inverse of `compress`. `nnz`, if
    it is given, is not asked of the device.

    Raises:
        ValueError: what is no CSR pattern of so many columns; on a GPU only what is no pair of vectors.
    """
    check_vectors(row_ptr, col)
    check_host(row_ptr, col, cols)
    if nnz is not None and (nnz > col.numel() or (col.device.type == "cpu" and nnz != int(row_ptr[-1]))):
        raise ValueError(f"nnz must be the last of row_ptr, got {nnz}")
    return reference.coordinates(row_ptr, col, cols, nnz)


def random_subset(n: int, size: int, seed: int, *, device: torch.device | str = "cpu") -> Tensor:
    """`n` distinct integers in [0, size), ascending, int64; every such set is equally likely. O(n) memory.

    Raises:
        ValueError: `n` is not in [0, size].
    """
    if not 0 <= n <= size:
        raise ValueError(f"n must be between 0 and {size}, got {n}")
    chosen = torch.empty(n, dtype=torch.int64, device=device)
    _ops.random_subset(chosen, size, seed)
    return chosen


def rewire(
    row_ptr: Tensor, col: Tensor, keep: Tensor, grow: Tensor, capacity: int, cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A CSR pattern without some of its slots and with other coordinates.

    Args:
        row_ptr: int32 `[rows + 1]`.
        col: int32, at least `nnz` entries.
        keep: bool `[nnz]`, which slots stay.
        grow: int64, flat coordinates that join, ascending, distinct, none of them kept.
        capacity: length of the new `col`.
        cols: extent of a row.

    Returns:
        New `row_ptr`; new `col` `[capacity]`, zero in the slack; index map int32 `[capacity]`: the old slot of each new
        slot, -1 for what has grown and for slack.

    Raises:
        ValueError: any of this does not hold, or the result does not fit the capacity. On a GPU the old pattern is
            taken for granted.
    """
    _pattern(row_ptr, col, cols)
    _vector(keep, "keep", torch.bool)
    _vector(grow, "grow", torch.int64)
    return _ops.rewire(row_ptr, col, keep, grow, capacity, cols)


def transpose_index(row_ptr: Tensor, col: Tensor, cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """The walk of a CSR pattern by columns: `t_ptr` int32 `[cols + 1]`, and for every step of that walk its row and its
    slot, both int32 `[capacity]`.

    Raises:
        ValueError: what is no CSR pattern of so many columns; on a GPU only what is no pair of vectors.
    """
    _pattern(row_ptr, col, cols)
    return _ops.transpose_index(row_ptr, col, cols)


def tile_index(ptr: Tensor, index: Tensor, extent: int) -> Tensor:
    """The slot where each segment of 64 consecutive columns starts in every row, and where the row ends: int32
    `[rows, tiles + 1]`. `extent` is the number of columns. The errors are those of `transpose_index`."""
    _pattern(ptr, index, extent, "ptr", "index", "extent")
    return _ops.tile_index(ptr, index, extent)


def bit_index(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """A CSR pattern as a bit map: int64 `[rows, tiles]`, for each segment of 64 columns a word, the first of them the
    lowest bit. The errors are those of `transpose_index`."""
    _pattern(row_ptr, col, cols)
    return _ops.bit_index(row_ptr, col, cols)


def _pattern(
    row_ptr: Tensor, col: Tensor, cols: int, pointers: str = "row_ptr", columns: str = "col", extent: str = "cols"
) -> None:
    check_vectors(row_ptr, col, pointers, columns)
    if not 0 <= cols < 2**31:
        raise ValueError(f"{extent} must be at least 0 and below 2**31, got {cols}")


def _vector(tensor: Tensor, name: str, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype or tensor.dim() != 1:
        raise ValueError(f"{name} must be a 1-D {dtype} tensor, got {tensor.dtype} {tuple(tensor.shape)}")

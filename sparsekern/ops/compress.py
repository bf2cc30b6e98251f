"""A CSR pattern from coordinates or from a mask: `compress`, `compress_mask`; and its inverse, `coordinates`."""

import torch
from torch import Tensor

from .csr import check_host, check_vector, check_vectors, flat_coordinates
from .library import define

_ops = torch.ops.sparsekern


def compress(coordinates: Tensor, rows: int, cols: int, capacity: int | None = None) -> tuple[Tensor, Tensor]:
    """Makes the CSR pattern of a `rows x cols` matrix from its flat coordinates `r * cols + c`.

    Args:
        rows, cols: below 2**31.
        coordinates: int64 `[nnz]`, distinct, in any order; ascending ones need no memory beyond the result.
        capacity: length of `col`, `nnz` by default.

    Returns:
        `row_ptr` int32 `[rows + 1]` and `col` int32 `[capacity]`, zero in the slack.

    Raises:
        ValueError: coordinates that are not int64 `[nnz]`, in range and distinct; a capacity below `nnz`; an extent or
            capacity beyond 31 bits.
    """
    check_vector(coordinates, "coordinates", torch.int64)
    if not (0 <= rows < 2**31 and 0 <= cols < 2**31):
        raise ValueError(f"rows and columns must be below 2**31, got {rows} x {cols}")
    return _ops.compress(coordinates, rows, cols, coordinates.numel() if capacity is None else capacity)


def compress_mask(mask: Tensor, capacity: int | None = None) -> tuple[Tensor, Tensor]:
    """Makes the CSR pattern of the entries of a mask that are True.

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
    """Returns the flat coordinates `r * cols + c` of a CSR pattern, int64 `[nnz]`, ascending: the inverse of
    `compress`. If `nnz` is given, the device is not asked for it.

    Raises:
        ValueError: this is no CSR pattern of so many columns; on a GPU only dtypes and dimensions are checked.
    """
    check_vectors(row_ptr, col)
    check_host(row_ptr, col, cols)
    if nnz is not None and nnz > col.numel():
        raise ValueError(f"nnz must be the last of row_ptr, got {nnz}")
    return coordinates_of(row_ptr, col, cols, nnz)


def coordinates_of(row_ptr: Tensor, col: Tensor, cols: int, nnz: int | None = None) -> Tensor:
    """Does what `coordinates` does, of a pattern that is known to be one."""
    return _ops.coordinates(row_ptr, col, cols, int(row_ptr[-1]) if nnz is None else nnz)


def compress_reference(coordinates: Tensor, rows: int, cols: int, capacity: int) -> tuple[Tensor, Tensor]:
    """`row_ptr [rows+1]` and `col [capacity]` of distinct flat coordinates (int64 `[nnz]`) in any order."""
    nnz = coordinates.numel()
    if not nnz <= capacity < 2**31 - 1:
        raise ValueError(f"capacity must be at least nnz = {nnz} and below 2**31 - 1, got {capacity}")
    if nnz and not 0 <= int(coordinates.min()) <= int(coordinates.max()) < rows * cols:
        raise ValueError(f"coordinates must lie in [0, {rows * cols})")
    if not bool((coordinates[1:] > coordinates[:-1]).all()):
        coordinates = coordinates.sort().values
        if not bool((coordinates[1:] > coordinates[:-1]).all()):
            raise ValueError("coordinates must be distinct")
    col = torch.zeros(capacity, dtype=torch.int32, device=coordinates.device)
    col[:nnz] = coordinates % max(1, cols)
    bounds = torch.arange(rows + 1, device=coordinates.device) * cols
    return torch.searchsorted(coordinates, bounds, out_int32=True), col


def compress_mask_reference(mask: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """`row_ptr [rows+1]` and `col [capacity]` of a mask, bool `[rows, cols]`."""
    rows, cols = mask.shape
    return compress_reference(mask.flatten().nonzero().flatten(), rows, cols, capacity)


def coordinates_reference(row_ptr: Tensor, col: Tensor, cols: int, nnz: int) -> Tensor:
    """`r * cols + c` of every position in use, int64 `[nnz]`."""
    if row_ptr.device.type == "cpu" and nnz != int(row_ptr[-1]):
        raise ValueError(f"nnz must be the last of row_ptr, got {nnz}")
    return flat_coordinates(row_ptr, col, cols, nnz)


def compress_fake(coordinates: Tensor, rows: int, cols: int, capacity: int) -> tuple[Tensor, Tensor]:
    return coordinates.new_empty((rows + 1,), dtype=torch.int32), coordinates.new_empty((capacity,), dtype=torch.int32)


def coordinates_fake(row_ptr: Tensor, col: Tensor, cols: int, nnz: int) -> Tensor:
    return row_ptr.new_empty(nnz, dtype=torch.int64)


def compress_mask_fake(mask: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    return compress_fake(mask, mask.shape[0], mask.shape[1], capacity)


define(
    "compress(Tensor coordinates, SymInt rows, SymInt cols, SymInt capacity) -> (Tensor, Tensor)",
    reference=compress_reference,
    fake=compress_fake,
)
define(
    "compress_mask(Tensor mask, SymInt capacity) -> (Tensor, Tensor)",
    reference=compress_mask_reference,
    fake=compress_mask_fake,
)
define(
    "coordinates(Tensor row_ptr, Tensor col, SymInt cols, SymInt nnz) -> Tensor",
    reference=coordinates_reference,
    fake=coordinates_fake,
)

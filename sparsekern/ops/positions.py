"""Where entries of a matrix stand in a pattern: `positions`."""

import torch
from torch import Tensor

from .bit_index import bit_columns_reference
from .csr import check_extent, check_host, check_vector, flat_coordinates
from .library import define


def positions(row_ptr: Tensor, columns: Tensor, coordinates: Tensor, cols: int) -> Tensor:
    """Returns the position of each entry in a CSR pattern, int32 `[n]`; -1 where the pattern has no such entry.

    Args:
        row_ptr: int32 `[rows + 1]`.
        columns: int32, at least `nnz` entries, or the bitmask of the pattern, int64 `[rows, segments]`.
        coordinates: int64 `[n]`, flat coordinates `r * cols + c` in any order.
        cols: extent of a row.

    Raises:
        ValueError: any of this does not hold.

    Examples:
        >>> row_ptr, col = sk.ops.compress(torch.tensor([1, 2, 5]), rows=2, cols=3)
        >>> sk.ops.positions(row_ptr, col, torch.tensor([5, 0, 1]), cols=3).tolist()
        [2, -1, 0]
    """
    if columns.dtype != torch.int64:
        check_extent(row_ptr, columns, cols)
    check_vector(coordinates, "coordinates", torch.int64)
    return torch.ops.sparsekern.positions(row_ptr, columns, coordinates, cols)


def positions_reference(row_ptr: Tensor, columns: Tensor, coordinates: Tensor, cols: int) -> Tensor:
    """Looks the coordinates up among those of the pattern, which ascend."""
    if columns.dtype == torch.int64:
        columns = bit_columns_reference(row_ptr, columns, cols, int(row_ptr[-1]))
    check_host(row_ptr, columns, cols)
    rows = row_ptr.numel() - 1
    known = columns.device.type == "cpu" and coordinates.numel() > 0
    if known and not 0 <= int(coordinates.min()) <= int(coordinates.max()) < rows * cols:
        raise ValueError(f"coordinates must lie in [0, {rows * cols})")
    active = flat_coordinates(row_ptr, columns, cols)
    if not active.numel():
        return row_ptr.new_full(coordinates.shape, -1)
    place = torch.searchsorted(active, coordinates).clamp_(max=active.numel() - 1)
    return torch.where(active[place] == coordinates, place, -1).int()


def positions_fake(row_ptr: Tensor, columns: Tensor, coordinates: Tensor, cols: int) -> Tensor:
    return row_ptr.new_empty(coordinates.shape)


define(
    "positions(Tensor row_ptr, Tensor columns, Tensor coordinates, SymInt cols) -> Tensor",
    reference=positions_reference,
    fake=positions_fake,
)

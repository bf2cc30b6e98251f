"""A CSR pattern without some of its entries and with others: `rewire`."""

import torch
from torch import Tensor

from .compress import compress_reference
from .csr import check_extent, check_host, check_vector, flat_coordinates
from .library import define


def rewire(
    row_ptr: Tensor, col: Tensor, keep: Tensor, grow: Tensor, capacity: int, cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Makes a CSR pattern without some entries of an old one, and with new ones.

    Args:
        row_ptr: int32 `[rows + 1]`.
        col: int32, at least `nnz` entries.
        keep: bool `[nnz]`, which positions stay.
        grow: int64, flat coordinates that join, ascending, distinct, none of them kept.
        capacity: length of the new `col`.
        cols: extent of a row.

    Returns:
        New `row_ptr`; new `col` `[capacity]`, zero in the slack; index map int32 `[capacity]`: the old position of each
        new one, -1 for what has grown and for slack.

    Raises:
        ValueError: any of this does not hold, or the result does not fit the capacity. On a GPU the old pattern is
            taken for granted.
    """
    check_extent(row_ptr, col, cols)
    check_vector(keep, "keep", torch.bool)
    check_vector(grow, "grow", torch.int64)
    return torch.ops.sparsekern.rewire(row_ptr, col, keep, grow, capacity, cols)


def rewire_reference(
    row_ptr: Tensor, col: Tensor, keep: Tensor, grow: Tensor, capacity: int, cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Drops the positions whose `keep` is False (bool `[nnz]`), adds the ascending coordinates `grow` (int64).

    Returns the new `row_ptr`, `col` `[capacity]` and the index map `[capacity]`: the old position of each new one,
    or -1 for what has grown and for slack.
    """
    check_host(row_ptr, col, cols)
    rows, nnz = row_ptr.numel() - 1, int(row_ptr[-1])
    if keep.numel() != nnz:
        raise ValueError(f"keep must be a bool tensor [{nnz}], got {keep.numel()} elements")
    if grow.numel() and not 0 <= int(grow.min()) <= int(grow.max()) < rows * cols:
        raise ValueError(f"grow must lie in [0, {rows * cols})")
    if not bool((grow[1:] > grow[:-1]).all()):
        raise ValueError("grow must be ascending and distinct")
    old = flat_coordinates(row_ptr, col, cols, nnz)[keep]
    coordinates, order = torch.cat([old, grow]).sort()
    if coordinates.numel() > capacity:
        raise ValueError(f"{coordinates.numel()} nonzeros do not fit the capacity {capacity}")
    if not bool((coordinates[1:] > coordinates[:-1]).all()):
        raise ValueError("grow must not hold active coordinates")
    source = torch.cat([keep.nonzero().flatten(), torch.full_like(grow, -1)])[order]
    new_row_ptr, new_col = compress_reference(coordinates, rows, cols, capacity)
    index_map = torch.full((capacity,), -1, dtype=torch.int32, device=col.device)
    index_map[: source.numel()] = source.to(torch.int32)
    return new_row_ptr, new_col, index_map


def rewire_fake(
    row_ptr: Tensor, col: Tensor, keep: Tensor, grow: Tensor, capacity: int, cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(row_ptr), col.new_empty((capacity,)), col.new_empty((capacity,))


define(
    "rewire(Tensor row_ptr, Tensor col, Tensor keep, Tensor grow, SymInt capacity, SymInt cols) "
    "-> (Tensor, Tensor, Tensor)",
    reference=rewire_reference,
    fake=rewire_fake,
)

"""The columns of a compact index: one in tiles (`tile_pattern`) or a narrow one (`narrow_pattern`)."""

import torch
from torch import Tensor

from .csr import check_host
from .library import define
from .narrow_pattern import narrow_parts
from .tile_pattern import MOST_SIDE, tile_parts, tile_sizes

HEADER = 16  # bytes: int32 rows, cols, side of a tile or 0, nonzeros


def compact_columns(row_ptr: Tensor, compact: Tensor, cols: int, capacity: int) -> Tensor:
    """Returns the columns of a pattern, int32 `[capacity]`, zero in the slack: the inverse of `tile_pattern` and of
    `narrow_pattern`.

    Args:
        row_ptr: int32 `[rows + 1]`.
        compact: from one of these, uint8 `[bytes]`.

    Raises:
        ValueError: `compact` is not the index of so many rows, columns and nonzeros, or a row of it has not as many as
            `row_ptr` says; there are more than `capacity`.
    """
    return torch.ops.sparsekern.compact_columns(row_ptr, compact, cols, capacity)


def compact_columns_reference(row_ptr: Tensor, compact: Tensor, cols: int, capacity: int) -> Tensor:
    rows, nnz = row_ptr.numel() - 1, int(row_ptr[-1])
    if nnz > capacity:
        raise ValueError(f"capacity must be at least {nnz}, got {capacity}")
    readable = compact.dtype == torch.uint8 and compact.is_contiguous() and len(compact) >= HEADER
    readable = readable and compact.data_ptr() % 4 == 0
    header = compact[:HEADER].view(torch.int32).tolist() if readable else []
    side = header[2] if header[:2] + header[3:] == [rows, cols, nnz] else -1
    parts = narrow_parts(rows, cols, nnz) if side == 0 else []
    if 0 < side <= MOST_SIDE:
        parts = tile_parts(rows, cols, nnz, side)
    if not 0 < sum(parts) <= len(compact):
        pattern = f"a {rows} x {cols} pattern of {nnz} nonzeros"
        raise ValueError(f"compact must be the index of {pattern}, made by tile_pattern or narrow_pattern")
    col = row_ptr.new_zeros(capacity)
    if side == 0:
        pairs = compact[parts[0] : parts[0] + 2 * nnz].view(-1, 2).int()
        col[:nnz] = pairs[:, 0] + 256 * pairs[:, 1]
    else:
        col[:nnz] = _columns_of_tiles(row_ptr, compact[: sum(parts)].split(parts), cols, side)
    check_host(row_ptr, col, cols, columns="columns of a compact index")
    return col


def _columns_of_tiles(row_ptr: Tensor, parts: tuple[Tensor, ...], cols: int, side: int) -> Tensor:
    """Repeats the first column of each tile as often as the counts of its rows say, and adds the columns within it."""
    rows, nnz = row_ptr.numel() - 1, int(row_ptr[-1])
    down, across = tile_sizes(rows, cols, side)
    _, _, columns, order, count, *_ = parts
    order, count = (table.long().view(down, across, side) for table in (order, count))
    counts = torch.zeros_like(count).scatter_add_(2, order.clamp(max=side - 1), count).transpose(1, 2)
    counts = counts.reshape(down * side, across)[:rows]
    if not torch.equal(counts.sum(1), row_ptr.diff()):
        raise ValueError("tiles must have as many nonzeros in each row as row_ptr says")
    first = torch.arange(across, device=columns.device).mul_(side).repeat(rows)
    return first.repeat_interleave(counts.flatten(), output_size=nnz) + columns[:nnz]


def compact_columns_fake(row_ptr: Tensor, compact: Tensor, cols: int, capacity: int) -> Tensor:
    return row_ptr.new_empty(capacity)


define(
    "compact_columns(Tensor row_ptr, Tensor compact, SymInt cols, SymInt capacity) -> Tensor",
    reference=compact_columns_reference,
    fake=compact_columns_fake,
)

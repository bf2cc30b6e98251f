"""A pattern in tiles, as the L1-blocked CPU kernels of linear layers walk it: `tile_pattern`."""

import torch
from torch import Tensor

from .csr import check_extent, check_host, rows_of
from .library import define

MOST_SIDE = 240
BYTES = 3  # that each nonzero takes, whatever the pattern


def tile_side(density: float) -> int:
    """Returns how many rows and columns a tile has: so many that a row of a tile has ten nonzeros, at least 64, at most
    240."""
    return max(64, min(MOST_SIDE, round(10 / max(density, 1e-9) / 16) * 16))


def tile_pattern(row_ptr: Tensor, col: Tensor, cols: int, side: int) -> Tensor:
    """Makes the tiles of a CSR pattern for `sparse_linear` on the CPU: about 3.5 bytes a nonzero instead of 12.

    A tile is a square of `side` rows and columns. Its rows and columns are in the order of their counts, most first.

    Args:
        row_ptr, col, cols: the pattern, as in `transpose_index`.
        side: a multiple of 16, at most 240.

    Returns:
        uint8 `[bytes]`, these parts one after the other: int32 rows, cols, `side`, nonzeros; int32 `[tiles + 1]`, the
        entries before each tile, tiles by columns; uint16 `[nnz]` entries in this order, within a tile by columns:
        the row in the tile, and times 256 its place in the row of the tile; uint8 `[nnz]` columns in the tile, in the
        order of `col`; uint8 `[tiles, side]` rows by count and their counts, tiles by rows; the same of columns,
        tiles by columns. The parts of two and one bytes are padded to four. There are as many bytes as `capacity`
        nonzeros would take, those behind are zero.

    Raises:
        ValueError: this is no CSR pattern of so many columns, or no such side.
    """
    check_extent(row_ptr, col, cols)
    if not 0 < side <= MOST_SIDE or side % 16:
        raise ValueError(f"side must be a multiple of 16 up to {MOST_SIDE}, got {side}")
    return torch.ops.sparsekern.tile_pattern(row_ptr, col, cols, side)


def tile_sizes(rows: int, cols: int, side: int) -> tuple[int, int]:
    return (rows + side - 1) // side, (cols + side - 1) // side


def tile_parts(rows: int, cols: int, nnz: int, side: int) -> list[int]:
    """Bytes of: header and starts, entries, columns; orders and counts of rows, and of columns."""
    down, across = tile_sizes(rows, cols, side)
    return [4 * (5 + down * across), (2 * nnz + 3) // 4 * 4, (nnz + 3) // 4 * 4, *4 * [down * across * side]]


def _by_count(group: Tensor, groups: int, side: int) -> tuple[Tensor, Tensor]:
    """The members of each group by how often they occur in `group` (`number of the group * side + member`)."""
    counts = torch.bincount(group, minlength=groups * side).reshape(groups, side)
    counts, order = counts.sort(dim=1, descending=True, stable=True)
    return order, counts


def tile_pattern_reference(row_ptr: Tensor, col: Tensor, cols: int, side: int) -> Tensor:
    """Makes tiles by sorting, with the same bytes."""
    check_host(row_ptr, col, cols)
    rows, nnz = row_ptr.numel() - 1, int(row_ptr[-1])
    down, across = tile_sizes(rows, cols, side)
    row, column = rows_of(row_ptr), col[:nnz].long()
    i, r, j, c = row // side, row % side, column // side, column % side
    row_order, row_count = _by_count((i * across + j) * side + r, down * across, side)
    col_order, col_count = _by_count((j * down + i) * side + c, down * across, side)
    start = torch.cat([column.new_zeros(1), col_count.sum(1).cumsum(0)])
    segment = row * across + j
    place = torch.arange(nnz, device=col.device) - torch.searchsorted(segment, segment)
    at = col_order.argsort(dim=1).flatten()[(j * down + i) * side + c]
    entry = (r + 256 * place)[(((j * down + i) * side + at) * side + r).argsort()]
    header = torch.tensor([rows, cols, side, nnz], device=col.device)
    pad = [column.new_zeros(-size % 4) for size in (2 * nnz, nnz)]
    parts = [
        torch.cat([header, start]).to(torch.int32).view(torch.uint8),
        torch.stack([entry & 0xFF, entry >> 8], 1).flatten(),
        pad[0],
        c,
        pad[1],
        *(table.flatten() for table in (row_order, row_count, col_order, col_count)),
    ]
    tiles = col.new_zeros(sum(tile_parts(rows, cols, col.numel(), side)), dtype=torch.uint8)
    used = torch.cat([part.to(torch.uint8) for part in parts])
    tiles[: used.numel()] = used
    return tiles


def tile_pattern_fake(row_ptr: Tensor, col: Tensor, cols: int, side: int) -> Tensor:
    return col.new_empty((sum(tile_parts(row_ptr.shape[0] - 1, cols, col.shape[0], side)),), dtype=torch.uint8)


define(
    "tile_pattern(Tensor row_ptr, Tensor col, SymInt cols, int side) -> Tensor",
    reference=tile_pattern_reference,
    fake=tile_pattern_fake,
)

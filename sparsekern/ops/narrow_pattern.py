"""A pattern in 16-bit columns and rows, as CPU kernels of linear layers walk it by rows: `narrow_pattern`."""

import torch
from torch import Tensor

from .csr import check_extent, check_host, rows_of
from .library import define
from .transpose_index import transpose_index_reference

STRIP = 192  # columns, a count of which takes a byte
NARROWEST = 2**16  # rows and columns at most
BYTES = 5  # that each nonzero takes, whatever the pattern


def narrow_parts(rows: int, cols: int, nnz: int) -> list[int]:
    """Bytes of: header and starts of columns; columns, rows, places; counts."""
    return [4 * (5 + cols), *2 * [(2 * nnz + 3) // 4 * 4], (nnz + 3) // 4 * 4, (-(-cols // STRIP) * rows + 3) // 4 * 4]


def is_smaller(rows: int, cols: int, nnz: int, share: float = 0.75) -> bool:
    """Returns whether a pattern has a narrow index that takes less than this share of the memory of its CSR and CSC
    index. Where it takes more, walks over it cost more time than it is worth."""
    return max(rows, cols) <= NARROWEST and sum(narrow_parts(rows, cols, nnz)) < share * (12 * nnz + 4 * (cols + 1))


def narrow_pattern(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Makes the narrow index of a CSR pattern for `sparse_linear` on the CPU: 5 bytes a nonzero instead of 12, and one
    for each row and 192 columns.

    Args:
        row_ptr, col, cols: the pattern, as in `transpose_index`; at most 65536 rows and columns.

    Returns:
        uint8 `[bytes]`, these parts one after the other: int32 rows, cols, 0, nonzeros; int32 `[cols + 1]`, where each
        column starts in the transposed (CSC) index; uint16 `[nnz]` columns in the order of `col`; uint16 `[nnz]` rows
        in the order of the transposed index; uint8 `[nnz]`, in this order, too, the place of each nonzero among those
        of its row in a strip of 192 columns; uint8 `[strips, rows]`, how many a row has in each strip. The parts of two
        and one bytes are padded to four. There are as many bytes as `capacity` nonzeros would take, those behind are
        zero.

    Raises:
        ValueError: this is no CSR pattern of so many columns, or it has too many rows or columns.
    """
    check_extent(row_ptr, col, cols)
    return torch.ops.sparsekern.narrow_pattern(row_ptr, col, cols)


def narrow_pattern_reference(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Makes it from the transposed index, with the same bytes."""
    check_host(row_ptr, col, cols)
    rows, nnz = row_ptr.numel() - 1, int(row_ptr[-1])
    if max(rows, cols) > NARROWEST:
        raise ValueError(f"a narrow index has up to {NARROWEST} rows and columns, got {rows} x {cols}")
    strips = -(-cols // STRIP)
    row, column = rows_of(row_ptr), col[:nnz].long()
    t_ptr, t_row, t_pos = (t.long() for t in transpose_index_reference(row_ptr, col, cols))
    segment = row * strips + column // STRIP
    place = torch.arange(nnz, device=col.device) - torch.searchsorted(segment, segment)
    counts = torch.bincount(segment, minlength=rows * strips).reshape(rows, strips).t().flatten()
    header = torch.tensor([rows, cols, 0, nnz], device=col.device)
    parts = [
        torch.cat([header, t_ptr]).to(torch.int32).view(torch.uint8),
        *(torch.stack([wide & 0xFF, wide >> 8], 1).flatten() for wide in (column, t_row[:nnz])),
        place[t_pos[:nnz]],
        counts,
    ]
    narrow = col.new_zeros(sum(narrow_parts(rows, cols, col.numel())), dtype=torch.uint8)
    start = 0
    for part, size in zip(parts, narrow_parts(rows, cols, nnz), strict=True):
        narrow[start : start + part.numel()] = part.to(torch.uint8)
        start += size
    return narrow


def narrow_pattern_fake(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    return col.new_empty((sum(narrow_parts(row_ptr.shape[0] - 1, cols, col.shape[0])),), dtype=torch.uint8)


define(
    "narrow_pattern(Tensor row_ptr, Tensor col, SymInt cols) -> Tensor",
    reference=narrow_pattern_reference,
    fake=narrow_pattern_fake,
)

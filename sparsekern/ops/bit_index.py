"""Bitmasks: of a CSR pattern (`bit_index`, and back `bit_columns`) or a mask (`mask_bits`), without some entries
(`drop_bits`), compared (`common_bits`)."""

import torch
from torch import Tensor

from .csr import check_extent, check_host, rows_of
from .index import SEGMENT
from .library import define


def bit_index(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Returns a CSR pattern as a bitmask: int64 `[rows, segments]`, for each segment of 64 columns a word, the first of
    them the lowest bit. Arguments and errors are those of `transpose_index`."""
    check_extent(row_ptr, col, cols)
    return torch.ops.sparsekern.bit_index(row_ptr, col, cols)


def bit_columns(row_ptr: Tensor, bits: Tensor, cols: int, capacity: int) -> Tensor:
    """Returns the columns of a bitmask, int32 `[capacity]`, zero in the slack: the inverse of `bit_index`.

    Args:
        row_ptr: int32 `[rows + 1]`.
        bits: int64 `[rows, segments]`, for `cols` columns.

    Raises:
        ValueError: a row has not as many bits as `row_ptr` says, or there are more than `capacity`.
    """
    return torch.ops.sparsekern.bit_columns(row_ptr, bits, cols, capacity)


def drop_bits(row_ptr: Tensor, bits: Tensor, keep: Tensor, cols: int) -> tuple[Tensor, Tensor]:
    """Returns the row pointers and the bitmask of a pattern without some of its entries.

    Args:
        row_ptr: int32 `[rows + 1]`.
        bits: int64 `[rows, segments]`, for `cols` columns.
        keep: which positions stay, a bitmask of one row of `nnz` columns: int64 `[1, segments of nnz]`.

    Raises:
        ValueError: a row has not as many bits as `row_ptr` says, or `keep` has another shape.
    """
    return torch.ops.sparsekern.drop_bits(row_ptr, bits, keep, cols)


def mask_bits(mask: Tensor) -> Tensor:
    """Returns a mask, bool `[rows, cols]`, as a bitmask: the inverse of `bit_mask`.

    Raises:
        ValueError: `mask` is not such a tensor.
    """
    if mask.dtype != torch.bool or mask.dim() != 2:
        raise ValueError(f"mask must be bool [rows, cols], got {mask.dtype} {tuple(mask.shape)}")
    return torch.ops.sparsekern.mask_bits(mask)


def bit_pointers(bits: Tensor) -> Tensor:
    """Returns the row pointers of a bitmask int64 `[rows, segments]`, int32 `[rows + 1]`."""
    return torch.ops.sparsekern.bit_pointers(bits)


def common_bits(left: Tensor, right: Tensor) -> Tensor:
    """Returns how many entries two bitmasks `[rows, segments]` have in common, 0-d int64."""
    return torch.ops.sparsekern.common_bits(left, right)


def mask_bits_reference(mask: Tensor) -> Tensor:
    """Sums the powers of two of every segment."""
    rows, cols = mask.shape
    segments = (cols + SEGMENT - 1) // SEGMENT
    padded = torch.nn.functional.pad(mask, (0, segments * SEGMENT - cols)).view(rows, segments, SEGMENT)
    powers = torch.ones(SEGMENT, dtype=torch.int64, device=mask.device) << torch.arange(SEGMENT, device=mask.device)
    return (padded * powers).sum(2)


def bit_mask(bits: Tensor, cols: int) -> Tensor:
    """Returns a bitmask as bool `[rows, cols]`, contiguous. The result is all the memory that is needed, if rows are
    whole words."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    powers = torch.ones_like(places) << places
    mask = bits.contiguous().view(torch.uint8).unsqueeze(-1).bitwise_and(powers).ne_(0)
    return mask.view(torch.bool).flatten(1)[:, :cols].contiguous()


def bit_index_reference(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Returns which columns of every segment of `SEGMENT` exist: int64 `[rows, segments]`, the lowest bit first."""
    check_host(row_ptr, col, cols)
    mask = torch.zeros(row_ptr.numel() - 1, cols, dtype=torch.bool, device=col.device)
    mask[rows_of(row_ptr), col[: int(row_ptr[-1])].long()] = True
    return mask_bits_reference(mask)


def bit_index_fake(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    return col.new_empty((row_ptr.shape[0] - 1, (cols + SEGMENT - 1) // SEGMENT), dtype=torch.int64)


def bit_columns_reference(row_ptr: Tensor, bits: Tensor, cols: int, capacity: int) -> Tensor:
    """Returns which columns exist, row by row: int32 `[capacity]`."""
    mask = bit_mask(bits, cols)
    if bits.device.type == "cpu":
        if not torch.equal(mask.sum(1), row_ptr.diff()):
            raise ValueError("each row of bits must have as many set bits as row_ptr gives it nonzeros")
        if int(row_ptr[-1]) > capacity:
            raise ValueError(f"capacity must be at least {int(row_ptr[-1])}, got {capacity}")
    col = torch.zeros(capacity, dtype=torch.int32, device=bits.device)
    found = mask.nonzero()[:, 1]
    col[: found.numel()] = found.to(torch.int32)
    return col


def bit_columns_fake(row_ptr: Tensor, bits: Tensor, cols: int, capacity: int) -> Tensor:
    return row_ptr.new_empty(capacity)


def drop_bits_reference(row_ptr: Tensor, bits: Tensor, keep: Tensor, cols: int) -> tuple[Tensor, Tensor]:
    """Returns which entries are left."""
    rows, nnz = row_ptr.numel() - 1, int(row_ptr[-1])
    for words, shape in ((bits, (rows, (cols + SEGMENT - 1) // SEGMENT)), (keep, (1, (nnz + SEGMENT - 1) // SEGMENT))):
        if words.shape != shape:
            raise ValueError(f"bits must be a contiguous int64 tensor {list(shape)}")
    mask = bit_mask(bits, cols)
    if not torch.equal(mask.sum(1), row_ptr.diff()):
        raise ValueError("each row of bits must have as many set bits as row_ptr gives it nonzeros")
    left = torch.zeros_like(mask).masked_scatter_(mask, bit_mask(keep, nnz))
    return torch.cat([row_ptr[:1], left.sum(1).cumsum(0).int()]), mask_bits_reference(left)


def mask_bits_fake(mask: Tensor) -> Tensor:
    return mask.new_empty((mask.shape[0], (mask.shape[1] + SEGMENT - 1) // SEGMENT), dtype=torch.int64)


def bit_pointers_reference(bits: Tensor) -> Tensor:
    """Sums the entries of each row."""
    counts = bit_mask(bits, SEGMENT * bits.shape[1]).sum(1)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()


def bit_pointers_fake(bits: Tensor) -> Tensor:
    return bits.new_empty(bits.shape[0] + 1, dtype=torch.int32)


def common_bits_reference(left: Tensor, right: Tensor) -> Tensor:
    """Counts in the mask of the common entries."""
    return bit_mask(left & right, SEGMENT * left.shape[1]).count_nonzero()


def common_bits_fake(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(())


def drop_bits_fake(row_ptr: Tensor, bits: Tensor, keep: Tensor, cols: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(row_ptr), torch.empty_like(bits)


define(
    "bit_index(Tensor row_ptr, Tensor col, SymInt cols) -> Tensor",
    reference=bit_index_reference,
    fake=bit_index_fake,
)
define(
    "bit_columns(Tensor row_ptr, Tensor bits, SymInt cols, SymInt capacity) -> Tensor",
    reference=bit_columns_reference,
    fake=bit_columns_fake,
)
define(
    "drop_bits(Tensor row_ptr, Tensor bits, Tensor keep, SymInt cols) -> (Tensor, Tensor)",
    reference=drop_bits_reference,
    fake=drop_bits_fake,
)
define("mask_bits(Tensor mask) -> Tensor", reference=mask_bits_reference, fake=mask_bits_fake)
define("bit_pointers(Tensor bits) -> Tensor", reference=bit_pointers_reference, fake=bit_pointers_fake)
define("common_bits(Tensor left, Tensor right) -> Tensor", reference=common_bits_reference, fake=common_bits_fake)

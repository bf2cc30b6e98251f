"""The index of a sparse weight: the tensors that tell which of its entries exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

SEGMENT = 64  # columns of a segment of a row


class Index(NamedTuple):
    """A pattern as the operators take it (`Tensor[] index`), made by `Topology.index`.

    Pointers, columns and rows are int32, a compact index uint8, the bitmask int64. Columns ascend within a row. The
    first `row_ptr[-1]` positions of a value vector `[capacity]` are in use; the rest is slack, where values and their
    gradient are zero. What a kernel does not need may be empty.

    Attributes:
        row_ptr: `[rows + 1]`, where each row starts (CSR).
        col: `[capacity]`, the column of each position; without elements, `[capacity, 0]`, where `compact` or `bits`
            hold them.
        t_ptr: `[cols + 1]`, where each column starts in the transposed index (CSC); zeros, or without elements,
            `[cols + 1, 0]`, where it is not wanted.
        t_row: `[capacity]` or empty, the row of each position of the transposed index.
        t_pos: `[capacity]` or empty, the position in `values` of each position of the transposed index.
        segment_ptr: `[rows, segments + 1]` or empty, where each segment of 64 columns starts in its row.
        compact: uint8 or empty, for `col` and the transposed index: the pattern in tiles (`ops.tile_pattern`) or in
            16-bit columns and rows (`ops.narrow_pattern`).
        bits: `[rows, segments]` or empty, which columns of each segment exist, the lowest bit first (bitmask).
    """

    row_ptr: Tensor
    col: Tensor
    t_ptr: Tensor
    t_row: Tensor
    t_pos: Tensor
    segment_ptr: Tensor
    compact: Tensor
    bits: Tensor

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Index:
        """Names the tensors of an index.

        Raises:
            ValueError: they are more or fewer than an index has.
        """
        if isinstance(tensors, cls):
            return tensors
        if len(tensors) != len(cls._fields):
            raise ValueError(f"index must hold the {len(cls._fields)} tensors of Topology.index, got {len(tensors)}")
        return cls(*tensors)

    @property
    def rows(self) -> int:
        return self.row_ptr.shape[0] - 1

    @property
    def cols(self) -> int:
        return self.t_ptr.shape[0] - 1

    @property
    def capacity(self) -> int:
        return self.col.shape[0]

    @property
    def columns(self) -> Tensor:
        """The columns as the pattern holds them: `col`, or `compact` or `bits` in its place."""
        if self.col.dim() == 1:
            return self.col
        return self.compact if len(self.compact) else self.bits

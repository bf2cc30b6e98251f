"""The entries of a pattern in as little memory as they take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ... import ops
from ...topology import Topology

WIDE = 1 << 16  # columns from which on 16 bits do not tell which


@dataclass(frozen=True)
class Entries:
    """Which entries a pattern has: all of them, a bitmask, or columns of 16 bits, whichever is smallest.

    Attributes:
        cols: how many columns there are.
        row_ptr: int32 `[rows + 1]`; None: all entries exist.
        columns: int64 `[rows, segments]`, a bitmask; uint16 or, of wide patterns, int32 `[nnz]`; None as above.
    """

    cols: int
    row_ptr: Tensor | None = None
    columns: Tensor | None = None

    @classmethod
    def of(cls, topology: Topology) -> Entries:
        size = topology.rows * topology.cols
        if topology.nnz == size:
            return cls(topology.cols)
        if 16 * topology.nnz >= size and topology.device.type == "cpu":
            return cls(topology.cols, topology.row_ptr, topology.bits)
        col = topology.col[: topology.nnz]
        return cls(topology.cols, topology.row_ptr, col.to(torch.uint16) if topology.cols <= WIDE else col.clone())

    def csr(self) -> tuple[Tensor, Tensor] | None:
        """Returns `row_ptr` and `col`, int32 `[nnz]`; None: all entries exist."""
        row_ptr, columns = self.row_ptr, self.columns
        if row_ptr is None or columns is None:
            return None
        if columns.dim() == 2:
            return row_ptr, ops.bit_columns(row_ptr, columns, self.cols, int(row_ptr[-1]))
        return row_ptr, columns.int()

    def shared_with(self, active: Topology) -> tuple[int, int]:
        """Returns how many entries there are, and how many of them `active` has, too."""
        csr = self.csr()
        if csr is None:
            return active.rows * active.cols, active.nnz
        row_ptr, col = (tensor.to(active.device) for tensor in csr)
        return col.numel(), int((active.positions(ops.coordinates(row_ptr, col, self.cols)) >= 0).sum())

    @property
    def tensors(self) -> list[Tensor]:
        return [tensor for tensor in (self.row_ptr, self.columns) if tensor is not None]

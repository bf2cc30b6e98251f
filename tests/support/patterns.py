"""Sparsity patterns and tensors that the samples of the operators are made of."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """A sparsity pattern as a dense mask and, made from it without the package, as CSR."""

    mask: Tensor
    slack: int = 0

    @property
    def rows(self) -> int:
        return self.mask.shape[0]

    @property
    def cols(self) -> int:
        return self.mask.shape[1]

    @property
    def coordinates(self) -> Tensor:
        return self.mask.flatten().nonzero().flatten()

    @property
    def row_ptr(self) -> Tensor:
        return torch.cat([torch.zeros(1, dtype=torch.long), self.mask.sum(1).cumsum(0)]).int()

    @property
    def col(self) -> Tensor:
        return torch.cat([self.mask.nonzero()[:, 1], torch.zeros(self.slack, dtype=torch.long)]).int()

    @property
    def slots(self) -> Tensor:
        """`[rows, cols]`: the slot of each active entry."""
        slots = torch.zeros(self.mask.shape, dtype=torch.long)
        slots[self.mask] = torch.arange(int(self.mask.sum()))
        return slots

    def values(self, dtype: torch.dtype) -> Tensor:
        """Normal values with NaN in the slack, which nobody may read."""
        filled = torch.randn(int(self.mask.sum()), dtype=torch.float64).to(dtype)
        return torch.cat([filled, torch.full((self.slack,), float("nan"), dtype=dtype)])

    def dense(self, values: Tensor) -> Tensor:
        return torch.where(self.mask, values[self.slots], 0) if values.numel() else torch.zeros(self.mask.shape)

    def index(self, bits: bool = False) -> list[Tensor]:
        """The tensors of `Topology.index` with the transposed index and, if wanted, the bitmask."""
        col, t_slots = self.col, self.slots.t()[self.mask.t()]
        t_row, t_pos = torch.zeros_like(col), torch.zeros_like(col)
        t_row[: t_slots.numel()] = self.mask.t().nonzero()[:, 1].int()
        t_pos[: t_slots.numel()] = t_slots.int()
        t_ptr = torch.cat([torch.zeros(1, dtype=torch.long), self.mask.sum(0).cumsum(0)]).int()
        none = col.new_empty(0)
        segment_ptr, words = self.bit_map() if bits else (none, none.long())
        return [self.row_ptr, col, t_ptr, t_row, t_pos, segment_ptr, none, words]

    def bit_map(self) -> tuple[Tensor, Tensor]:
        """Where each segment of 64 columns starts, `[rows, segments + 1]`, and its bits, `[rows, segments]`."""
        count = -(-self.cols // 64)
        padded = torch.zeros(self.rows, count * 64, dtype=torch.long)
        padded[:, : self.cols] = self.mask
        segments = padded.reshape(self.rows, count, 64)
        counts = torch.nn.functional.pad(segments.sum(2).cumsum(1), (1, 0))
        return (counts + self.row_ptr[:-1, None]).int(), (segments << torch.arange(64)).sum(2)


@dataclass(frozen=True)
class Sample:
    """Arguments of an operator, and the pattern they describe, if any."""

    name: str
    args: tuple
    pattern: Pattern


def mask(rows: int, cols: int, density: float, seed: int = 0) -> Tensor:
    return torch.rand(rows, cols, generator=torch.Generator().manual_seed(seed)) < density


def patterns() -> dict[str, Pattern]:
    empty_rows = mask(9, 70, 0.3)
    empty_rows[::2] = False
    return {
        "odd widths": Pattern(mask(13, 131, 0.2)),
        "slack": Pattern(mask(10, 64, 0.4), slack=7),
        "empty rows": Pattern(empty_rows, slack=1),
        "empty matrix": Pattern(mask(5, 6, 0.0)),
        "empty with slack": Pattern(mask(5, 6, 0.0), slack=4),
        "one row": Pattern(mask(1, 200, 0.3)),
        "one column": Pattern(mask(40, 1, 0.5)),
        "one weight": Pattern(mask(1, 1, 2.0)),
        "full": Pattern(mask(6, 65, 2.0)),
    }


def tiles() -> Pattern:
    """Beyond the edges of tiles, with a tile, rows and columns that are empty."""
    across = mask(200, 150, 0.2)
    across[64:128, 64:128] = False
    across[130:140] = False
    across[:, 20] = False
    return Pattern(across, slack=5)


def strips() -> Pattern:
    """Of several strips of 192 columns, the last one of one column; a row that is full; more columns than a byte
    numbers."""
    across = mask(70, 2 * 192 + 1, 0.2)
    across[3] = True
    across[5] = False
    across[:, 200] = False
    return Pattern(across, slack=3)


def strided(*shape: int, dtype: torch.dtype) -> Tensor:
    """Normal numbers in every second column of a transposed tensor."""
    return torch.randn(2 * shape[-1], *shape[:-1], dtype=torch.float64).to(dtype).movedim(0, -1)[..., ::2]


def plain(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)

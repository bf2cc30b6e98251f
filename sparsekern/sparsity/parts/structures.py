"""Structures: patterns in which weights stay by blocks, by N of every M neighbours, or as many in every row.

Neighbours are consecutive inputs of an output; in a convolution consecutive input channels at one position of the
kernel, and a structure holds at every position.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, prod
from re import fullmatch
from typing import Protocol

import torch
from torch import Tensor

from ... import ops

Shape = Sequence[int]


class Structure(Protocol):
    """A structure that the patterns of all layers have.

    Attributes:
        per_layer: each layer has its own count.
    """

    @property
    def per_layer(self) -> bool: ...

    def problem(self, shape: Shape) -> str | None:
        """Returns why a weight of this shape cannot have it; None if it can."""
        ...

    def extents(self, shape: Shape) -> tuple[int, ...]:
        """Returns how many units, whose number is counted, there are along each dimension."""
        ...

    def rounded(self, counts: Sequence[int], shapes: Sequence[Shape]) -> list[int]:
        """Returns the nearest counts that the structure allows."""
        ...

    def slack(self, shape: Shape) -> int:
        """Returns how many weights rounding may cost or add in a layer."""
        ...

    def scores(self, scores: Tensor) -> Tensor:
        """Returns the scores of units, given those of the weights, of the weight's shape."""
        ...

    def marks(self, scores: Tensor, count: int) -> Tensor | None:
        """Returns `count` of the highest scores, bool of their shape; None if the structure does not say which ones."""
        ...

    def weights(self, marks: Tensor, shape: Shape) -> Tensor:
        """Returns the weights of the marked units, bool of the weight's shape."""
        ...


@dataclass(frozen=True)
class Blocks:
    """Blocks of `rows` outputs by `cols` inputs stay or go as a whole. A block scores what its weights score together,
    and as many stay as the sparsity says, exactly."""

    rows: int
    cols: int
    per_layer = False

    def problem(self, shape: Shape) -> str | None:
        if shape[0] % self.rows or shape[1] % self.cols:
            return f"blocks of {self.rows}x{self.cols} do not divide its {shape[0]} outputs and {shape[1]} inputs"
        return None

    def extents(self, shape: Shape) -> tuple[int, ...]:
        return shape[0] // self.rows, shape[1] // self.cols, *shape[2:]

    def rounded(self, counts: Sequence[int], shapes: Sequence[Shape]) -> list[int]:
        return list(counts)

    def slack(self, shape: Shape) -> int:
        return self.rows * self.cols

    def scores(self, scores: Tensor) -> Tensor:
        out, cols, *kernel = scores.shape
        blocks = scores.reshape(out // self.rows, self.rows, cols // self.cols, self.cols, *kernel)
        return blocks.sum((1, 3))

    def marks(self, scores: Tensor, count: int) -> None:
        return None

    def weights(self, marks: Tensor, shape: Shape) -> Tensor:
        extents = marks.reshape(self.extents(shape))
        return extents.repeat_interleave(self.rows, 0).repeat_interleave(self.cols, 1)


class _Balanced:
    """Keeps equally many weights in every group of `size` of them, the weights of a layer lying `grouped`."""

    per_layer = True

    def problem(self, shape: Shape) -> str | None:
        return None

    def extents(self, shape: Shape) -> tuple[int, ...]:
        return tuple(shape)

    def slack(self, shape: Shape) -> int:
        return shape[0]

    def scores(self, scores: Tensor) -> Tensor:
        return scores

    def grouped(self, scores: Tensor) -> Tensor:
        """Returns the scores as `[groups, size]`."""
        raise NotImplementedError

    def spread(self, marks: Tensor, shape: Shape) -> Tensor:
        """Returns what was `grouped` in its shape."""
        raise NotImplementedError

    def marks(self, scores: Tensor, count: int) -> Tensor:
        groups = self.grouped(scores)
        ops.host.refuse_nan(groups.isnan().any())
        kept = count // max(1, len(groups))
        best = groups.sort(dim=1, descending=True, stable=True).indices[:, :kept]  # of equal ones the lower index
        marks = torch.zeros(groups.shape, dtype=torch.bool, device=groups.device)
        return self.spread(marks.scatter_(1, best, True), scores.shape)

    def weights(self, marks: Tensor, shape: Shape) -> Tensor:
        return marks.reshape(tuple(shape))


@dataclass(frozen=True)
class NofM(_Balanced):
    """`n` of every `m` neighbours stay, those of the highest scores: 2:4 is what tensor cores of NVIDIA multiply. On
    the way to it as many of every m stay as the schedule says, rounded up."""

    n: int
    m: int

    def problem(self, shape: Shape) -> str | None:
        return f"{self.n}:{self.m} does not divide its {shape[1]} inputs" if shape[1] % self.m else None

    def rounded(self, counts: Sequence[int], shapes: Sequence[Shape]) -> list[int]:
        sizes = [prod(shape) for shape in shapes]
        kept = max(self.n, ceil(self.m * sum(counts) / max(1, sum(sizes)) - 1e-9))
        return [size // self.m * kept for size in sizes]

    def grouped(self, scores: Tensor) -> Tensor:
        return scores.movedim(1, -1).reshape(-1, self.m)

    def spread(self, marks: Tensor, shape: Shape) -> Tensor:
        out, cols, *kernel = shape
        return marks.reshape(out, *kernel, cols).movedim(-1, 1)


@dataclass(frozen=True)
class FanIn(_Balanced):
    """Every output of a layer has as many weights (constant fan-in: SRigL, Lasby et al., ICLR 2024, arXiv 2305.02299).
    The number of weights of a layer is rounded to the nearest that allows it, at least one for each output."""

    def rounded(self, counts: Sequence[int], shapes: Sequence[Shape]) -> list[int]:
        pairs = [(count, shape[0], prod(shape[1:])) for count, shape in zip(counts, shapes, strict=True)]
        return [rows * min(cols, max(1, floor(count / max(1, rows) + 0.5))) for count, rows, cols in pairs]

    def grouped(self, scores: Tensor) -> Tensor:
        return scores.flatten(1)

    def spread(self, marks: Tensor, shape: Shape) -> Tensor:
        return marks.reshape(tuple(shape))


def by_name(name: str) -> Structure:
    """Returns the structure of a name: "2:4" (N of every M inputs), "4x4" (blocks of outputs by inputs), "fan_in".

    Raises:
        ValueError: there is none of this name.
    """
    if name == "fan_in":
        return FanIn()
    pair = fullmatch(r"(\d+)([:x])(\d+)", name)
    if pair is not None:
        first, second = int(pair[1]), int(pair[3])
        if pair[2] == "x" and first and second:
            return Blocks(first, second)
        if pair[2] == ":" and 0 < first < second:
            return NofM(first, second)
    raise ValueError(f'structure must be N:M ("2:4"), blocks ("4x4") or "fan_in", got {name!r}')

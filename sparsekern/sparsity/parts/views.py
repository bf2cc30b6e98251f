"""Views say over which weights a choice is made: those of the whole network at once, or those of each layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ... import ops
from .distributions import Distribution, apportion, uniform
from .structures import Structure


@dataclass(frozen=True)
class View:
    """`largest(scores, counts)`: bool tensors that mark exactly `sum(counts)` of the highest scores; of equal ones
    the lower flat index in the order of the layers is taken.

    Attributes:
        per_layer: each layer has its own count.
        filters: what is counted, scored and marked is not a weight but an output channel with all its weights.
        share: how the layers share a scheduled sparsity, if each has its own count.
        min_per_layer: so many weights, or filters, stay in every layer.
        structure: which weights stay together; blocks are counted and scored as filters are.
    """

    per_layer: bool = False
    filters: bool = False
    share: Distribution = uniform
    min_per_layer: int = 0
    structure: Structure | None = None

    def __post_init__(self) -> None:
        if self.min_per_layer < 0:
            raise ValueError(f"min_per_layer must be at least 0, got {self.min_per_layer}")

    def units(self, shape: Sequence[int]) -> int:
        """Returns how many things there are to choose from in a weight of this shape."""
        return prod(self.extents(shape))

    def extents(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Returns how many of them there are along each dimension."""
        if self.structure is not None:
            return self.structure.extents(shape)
        return (shape[0], 1) if self.filters else tuple(shape)

    def weights(self, marks: Tensor, shape: Sequence[int]) -> Tensor:
        """Returns the weights, a bool tensor of `shape`, that belong to the marked units."""
        if self.structure is not None:
            return self.structure.weights(marks, shape)
        return marks.reshape(-1, *[1] * (len(shape) - 1)).expand(*shape) if self.filters else marks.reshape(*shape)

    def counts(self, shapes: Sequence[Sequence[int]], total: int, generator: torch.Generator) -> list[int]:
        """Returns how many of `total` units each layer keeps; over the network only the sum counts."""
        if not self.per_layer:
            return summed(total, len(shapes))
        counts = self.share([self.extents(shape) for shape in shapes], total, generator)
        return counts if self.structure is None else self.structure.rounded(counts, shapes)

    def masks(self, scores: Sequence[Tensor], counts: Sequence[int], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Returns which weights belong to the highest scores, bool tensors of `shapes`.

        Args:
            scores: of the weights, of their shapes, or of filters.

        Raises:
            ValueError: a score is NaN.
        """
        structure = self.structure
        if structure is None:
            marks = self.largest(scores, counts, self.min_per_layer)
        else:
            scores = [structure.scores(score.reshape(tuple(s))) for score, s in zip(scores, shapes, strict=True)]
            own = [structure.marks(score, count) for score, count in zip(scores, counts, strict=True)]
            marks = [mark for mark in own if mark is not None] or self.largest(scores, counts, self.min_per_layer)
        return [self.weights(mark, shape) for mark, shape in zip(marks, shapes, strict=True)]

    def largest(
        self, scores: Sequence[Tensor], counts: Sequence[int], minimum: int = 0, absolute: bool = False
    ) -> list[Tensor]:
        """Marks the highest scores.

        Args:
            minimum: that many are marked in every layer, wherever their scores stand.
            absolute: compare magnitudes.

        Raises:
            ValueError: a score is NaN.
        """
        own = self.taken(scores, counts, minimum)
        if own is not None:
            return [ops.topk_mask([s], k, absolute)[0] for s, k in zip(scores, own, strict=True)]
        return ops.topk_mask(self._protected(scores, minimum, absolute), sum(counts), absolute)

    def bits(
        self, scores: Sequence[Tensor], counts: Sequence[int], minimum: int = 0, absolute: bool = False
    ) -> tuple[list[Tensor], list[int]]:
        """Marks what `largest` does in bitmasks (`ops.topk_bits`), and returns how many are marked in each."""
        own = self.taken(scores, counts, minimum)
        if own is not None:
            return [ops.topk_bits([s], k, absolute)[0][0] for s, k in zip(scores, own, strict=True)], own
        marks, found = ops.topk_bits(self._protected(scores, minimum, absolute), sum(counts), absolute)
        return marks, found.tolist()

    def _protected(self, scores: Sequence[Tensor], minimum: int, absolute: bool) -> list[Tensor]:
        """Returns scores in which no other ones precede the `minimum` highest of each layer."""
        return [_protect(s, min(minimum, s.numel()), absolute) for s in scores] if minimum else list(scores)

    def taken(self, scores: Sequence[Tensor], counts: Sequence[int], minimum: int = 0) -> list[int] | None:
        """Returns how many `largest` marks in each layer; None if that is up to the scores."""
        if not self.per_layer:
            return None
        return at_least(minimum, counts, [score.numel() for score in scores])


def at_least(minimum: int, counts: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Returns counts of the same sum, none below `minimum` or the whole layer: the layers that have more give some."""
    least = [min(minimum, size) for size in sizes]
    more = sum(max(0, own - k) for own, k in zip(least, counts, strict=True))
    spare = [max(0, k - own) for own, k in zip(least, counts, strict=True)]
    given = apportion(spare, spare, min(more, sum(spare)))
    return [max(own, k) - less for own, k, less in zip(least, counts, given, strict=True)]


def summed(total: int, layers: int) -> list[int]:
    """Returns counts of which only the sum matters."""
    return [total] + [0] * (layers - 1)


def _protect(scores: Tensor, minimum: int, absolute: bool) -> Tensor:
    return torch.where(ops.topk_mask([scores], minimum, absolute)[0], torch.inf, scores)


network = View()
layer = View(per_layer=True)
filters = View(filters=True)
filters_of_layers = View(per_layer=True, filters=True)

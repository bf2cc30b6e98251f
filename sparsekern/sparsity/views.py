"""Over which weights a choice is made: those of the whole network at once, or those of each layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops

Select = Callable[[Sequence[Tensor], Sequence[int]], list[Tensor]]


@dataclass(frozen=True)
class View:
    """`largest(scores, counts)`: bool tensors that mark exactly `sum(counts)` of the highest scores; of equal ones
    the lower flat index in the order of the layers is taken. `per_layer`: each layer has its own count."""

    name: str
    per_layer: bool

    def largest(self, scores: Sequence[Tensor], counts: Sequence[int], minimum: int = 0) -> list[Tensor]:
        """
        Args:
            minimum: that many are marked in every layer, wherever their scores stand.

        Raises:
            ValueError: a score is NaN.
        """
        if self.per_layer:
            counts = [max(k, min(minimum, s.numel())) for s, k in zip(scores, counts, strict=True)]
            return [ops.topk_mask([s], k, False)[0] for s, k in zip(scores, counts, strict=True)]
        if minimum:
            scores = [_protect(s, min(minimum, s.numel())) for s in scores]
        return ops.topk_mask(list(scores), sum(counts), False)


def _protect(scores: Tensor, minimum: int) -> Tensor:
    return torch.where(ops.topk_mask([scores], minimum, False)[0], torch.inf, scores)


network = View("network", per_layer=False)
layer = View("layer", per_layer=True)

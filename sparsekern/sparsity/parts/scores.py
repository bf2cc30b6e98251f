"""Scores: how much a weight, or a whole filter, matters. What scores highest stays; what scores lowest is dropped.

A score is a function of something that has a weight and its gradient: a layer as methods see it (`LayerSite`), or
`Scored`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

Score = Callable[[Any], Tensor]


class Scored(NamedTuple):
    """A weight and its gradient of one shape, of a network that is scored before training."""

    weight: Tensor
    grad: Tensor | None = None


def magnitude(layer: Any) -> Tensor:
    """Returns |w|, of the weight's shape."""
    return layer.weight.abs()


def saliency(layer: Any) -> Tensor:
    """Returns |w g|, of the weight's shape (SNIP, Lee et al. 2019, arXiv 1810.02340, eq. 5)."""
    return (layer.weight * layer.grad).abs()


def product(layer: Any) -> Tensor:
    """Returns w g with its sign, of the weight's shape (GraSP, Wang et al. 2020, arXiv 2002.07376, with H g for g)."""
    return layer.weight * layer.grad


def filter_norm(layer: Any) -> Tensor:
    """Returns ||F||_2 of the weights of every output channel, `[rows]`."""
    return layer.weight.flatten(1).norm(dim=1)


def filter_rms(layer: Any) -> Tensor:
    """Returns ||F||_2 / sqrt(fan-in) of every output channel, `[rows]`."""
    return filter_norm(layer) / max(1, layer.weight[0].numel()) ** 0.5


@dataclass(frozen=True)
class Tracked:
    name: str

    def __call__(self, site: Any) -> Tensor:
        return site.tracked[self.name]


def tracked(name: str) -> Score:
    """Returns the statistic that the method's rule keeps under this name in `LayerSite.tracked`."""
    return Tracked(name)

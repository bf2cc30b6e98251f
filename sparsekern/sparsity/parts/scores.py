"""How much a weight matters: elementwise functions of the weight and, where a score needs it, its gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Score:
    """`function(weight, gradient)`, both of one shape; what scores highest is kept. `gradient` may be None unless
    `needs_gradient`."""

    name: str
    function: Callable[[Tensor, Any], Tensor]
    needs_gradient: bool = False

    def __call__(self, weight: Tensor, gradient: Tensor | None = None) -> Tensor:
        if self.needs_gradient and gradient is None:
            raise ValueError(f"the score {self.name} needs a gradient")
        return self.function(weight, gradient)


def _magnitude(weight: Tensor, gradient: Any) -> Tensor:
    return weight.abs()


def _saliency(weight: Tensor, gradient: Tensor) -> Tensor:
    return (weight * gradient).abs()


def _product(weight: Tensor, gradient: Tensor) -> Tensor:
    return weight * gradient


magnitude = Score("magnitude", _magnitude)
# |w g|: SNIP (Lee et al. 2019), eq. 5
saliency = Score("saliency", _saliency, needs_gradient=True)
# w g with its sign: GraSP (Wang et al. 2020) with H g for the gradient
product = Score("product", _product, needs_gradient=True)

"""The interface of a way to store a weight, and how weights are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class WeightStorage:
    """A way to store the weight of any kind of layer: as nonzeros (`SparseLayer`), or dense and masked (`MaskedLayer`).

    Attributes:
        WEIGHT: the name of the Parameter.
    """

    WEIGHT: ClassVar[str]

    def empty_weight(self, capacity: int, **factory: Any) -> Tensor:
        """Returns an uninitialised tensor for the Parameter."""
        raise NotImplementedError

    def entries(self, coordinates: Tensor) -> Tensor:
        """Returns the active entries of the weight by operators of PyTorch alone.

        Args:
            coordinates: their flat indices, int64 `[nnz]`, ascending.
        """
        raise NotImplementedError

    @property
    def stored(self) -> nn.Parameter:
        """The Parameter of the weight."""
        return getattr(self, self.WEIGHT)

    @property
    def weight_parameters(self) -> list[nn.Parameter]:
        """The Parameters that the weight is made of."""
        return [self.stored]

    def reset_weight(self, generator: torch.Generator | None) -> None:
        """Draws new weights."""
        raise NotImplementedError

    def take_weight(self, module: nn.Module) -> None:
        """Copies the weights of the dense twin or of a layer with a pattern."""
        raise NotImplementedError

    def dense_weight(self) -> Tensor:
        """Returns the weight of the dense twin, zeros in place, differentiable in the Parameter as the layer's output
        is."""
        raise NotImplementedError

    def dense_gradient(self) -> Tensor | None:
        """Returns the gradient of the Parameter, of the shape of the dense weight."""
        raise NotImplementedError

    def write_weight(self, dense: Tensor) -> None:
        """Gives the active weights their values in `dense`, of the shape of the dense weight."""
        raise NotImplementedError

    def write_gradient(self, dense: Tensor) -> None:
        """Gives the gradient of the Parameter its values in `dense`, of the shape of the dense weight."""
        raise NotImplementedError

    def saved_weight(self, weight: Tensor) -> Tensor:
        """Returns what a state dict holds of `weight`, the Parameter or a tensor of the same memory."""
        return weight

    def adopt(self, weight: Tensor, row_ptr: Tensor, col: Tensor) -> Tensor:
        """Installs a saved pattern; returns the saved weight as the Parameter holds it."""
        raise NotImplementedError


def draw(weight: Tensor, fill: Callable[..., Any], generator: torch.Generator | None) -> None:
    """Fills a weight by an initializer of `nn.init`. A generator is of the CPU: numbers are drawn there and copied."""
    if generator is None or weight.device.type == "cpu":
        fill(weight, generator=generator)
    else:
        weight.copy_(fill(torch.empty_like(weight, device="cpu"), generator=generator))

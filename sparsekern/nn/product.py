"""The interface of a kind of layer: the dense layer whose place it takes, and how it multiplies."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..ops.straight_through import Operation
from .kernel_choice import KernelPlan
from .planned import Workload
from .probe import Probe


class Product:
    """A kind of layer, such as linear, a convolution or an embedding, however its weight is stored. `LinearProduct` is
    the shortest example.

    Attributes:
        DENSE: the class of the dense layer whose place it takes, its twin.
        SETTINGS: the attributes of both that give their shape, which their constructors take by these names.
        TRANSPOSED: whether the weight of the dense layer has its first two dimensions exchanged: the pattern has one
            output in each row.
        VIEWS: the parts of the index that each kernel reads.
        BATCHED: how many dimensions an input with a batch has, as it is multiplied.
        expands: whether every call makes the whole dense weight.
        inside_recurrence: whether its inputs and output gradients stay inside PyTorch's recurrence.
        operation: how an input and the weight are multiplied; None for a linear layer.
        weight_shape: shape of the weight as the pattern has it.
    """

    DENSE: ClassVar[type[nn.Module]]
    SETTINGS: ClassVar[tuple[str, ...]]
    TRANSPOSED: ClassVar[bool] = False
    VIEWS: ClassVar[dict[str, frozenset[str]]]
    BATCHED: ClassVar[int] = 2
    expands: ClassVar[bool] = False
    inside_recurrence: ClassVar[bool] = False
    operation: Operation | None = None
    weight_shape: tuple[int, ...]

    # ---- the dense layer

    @classmethod
    def rows_of(cls, weight: Tensor) -> Tensor:
        """Returns a weight of the dense layer, or a mask of it, as the pattern has it, contiguous."""
        return weight.transpose(0, 1).contiguous() if cls.TRANSPOSED else weight

    @classmethod
    def weight_of(cls, rows: Tensor) -> Tensor:
        """Undoes `rows_of`, as a view."""
        return rows.transpose(0, 1) if cls.TRANSPOSED else rows

    @property
    def dense_shape(self) -> tuple[int, ...]:
        """The shape of the weight of the dense layer."""
        first, second, *kernel = self.weight_shape
        return (second, first, *kernel) if self.TRANSPOSED else self.weight_shape

    @classmethod
    def settings_of(cls, module: nn.Module) -> dict[str, Any]:
        """Returns what the constructor takes, of a dense layer or of one with a pattern."""
        return {name: getattr(module, name) for name in cls.SETTINGS}

    @classmethod
    def new_dense(cls, settings: dict[str, Any], bias: bool, **factory: Any) -> nn.Module:
        """Makes a dense layer with these settings, its weights unset."""
        return uninitialized(cls.DENSE, **settings, bias=bias, **factory)

    @staticmethod
    def refuses(layer: Any) -> str | None:
        """Returns why this class takes no dense layer with such settings; None if it does."""
        return None

    # ---- the kernel

    def new_plan(self, workload: Workload, card: str | None) -> KernelPlan:
        """Makes the plan for a workload, on the CPU or on a GPU of this name."""
        raise NotImplementedError

    def workload_of(self, input: Tensor) -> tuple[int, int | None] | None:
        """Returns the number of inputs in `input`, and the height of images; None if the layer does not take it."""
        raise NotImplementedError

    # ---- the product

    def prepare(self, input: Tensor) -> Tensor:
        """Returns the input that is multiplied: padded, where the padding mode is not zeros."""
        return input

    def product(self, input: Tensor, values: Tensor) -> Tensor:
        """Multiplies a prepared input by the values `[capacity]` with the kernel in use (SpMM), and adds the bias."""
        raise NotImplementedError

    def dense_product(self, input: Tensor, weight: Tensor) -> Tensor:
        """Multiplies a prepared input by a dense weight as the dense layer does, bit for bit, and adds the bias."""
        raise NotImplementedError

    def masked_product(self, input: Tensor, weight: Tensor, active: bool) -> Tensor:
        """Multiplies a prepared input by a dense weight under the bitmask of the pattern, and adds the bias.

        Args:
            active: whether the gradient of the weight is zero off the pattern.
        """
        raise NotImplementedError

    def multiplications_per_weight(self, input: Tensor, output: Tensor) -> int:
        """Returns how often a pass multiplies each weight: at each position of the output of every sample."""
        return output.numel() // max(1, self.weight_shape[0])

    def new_probe(self) -> Probe:
        """Returns a recorder for the statistics of one step of this layer."""
        raise NotImplementedError


def uninitialized(kind: type[nn.Module], *sizes: int, device: Any = None, **options: Any) -> nn.Module:
    """Makes a layer with unset weights, as `nn.utils.skip_init` does, which imports half a second's worth of modules
    even for the meta device."""
    layer, device = kind(*sizes, **options, device="meta"), torch.device(device or torch.get_default_device())
    return layer if device.type == "meta" else layer.to_empty(device=device)

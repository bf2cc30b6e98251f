"""Layers with a dense master weight, of which only the entries of a pattern take part in the products."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..ops.masked import Record, active_values, straight_through
from .conv import Conv2dProduct
from .layer import PatternLayer
from .linear import LinearProduct

Gradient = Literal["dense", "active", "moment"]
GRADIENTS = get_args(Gradient)


class MaskedLayer(PatternLayer):
    """A layer that multiplies the entries of its dense weight at its pattern: forward and input gradient cost what a
    layer that holds its nonzeros costs, and a change of pattern moves no weight. Patterns of one capacity
    (`Topology.from_mask(mask, capacity=...)`) keep compiled code valid.

    Attributes:
        weight: Parameter of the dense twin's shape, the master weight; entries off the pattern keep their values.
        weight_gradient: "dense": `weight.grad` is the gradient of the masked weight at every entry, absent ones too
            (straight-through); "active": it is zero off the pattern, and nothing dense is multiplied for it; "moment":
            that of "dense", and every backward pass adds to `moment` and `samples`.
        moment: sum over samples of the square of what each contributes to the gradient, of the weight's shape, in fp32
            or wider; None until a backward pass of `weight_gradient="moment"`. It belongs to the gradient as the
            backward pass left it: look at both before gradients are unscaled or clipped.
        samples: how many samples `moment` is the sum of. Whoever reads them sets them back to None and 0.
    """

    WEIGHT = "weight"
    weight: nn.Parameter

    def __init__(self, *arguments: Any, weight_gradient: Gradient = "dense", **options: Any) -> None:
        if weight_gradient not in GRADIENTS:
            raise ValueError(f"weight_gradient must be one of {', '.join(GRADIENTS)}, got {weight_gradient!r}")
        super().__init__(*arguments, **options)
        self.weight_gradient = weight_gradient
        self.moment: Tensor | None = None
        self.samples = 0
        self._recorded = -1  # the backward pass that added to them last

    def forward(self, input: Tensor) -> Tensor:
        input = self.prepare(input)
        if self.weight_gradient == "active":
            output = self.product(input, self.active_weight(self.weight))
        else:
            output = self.product(input, self.active_weight(self.weight.detach()))
            output = straight_through(output, input, self.weight, self.window, self._recorder(input))
        return output if self.probe is None else self.probe.tap(output, input)

    def _recorder(self, input: Tensor) -> Record | None:
        """What the backward pass tells the moment of the gradient, if this layer wants to know."""
        if self.weight_gradient != "moment" or not (torch.is_grad_enabled() and self.weight.requires_grad):
            return None
        if input.dim() < (2 if self.window is None else 4):
            raise ValueError(
                f"the second moment over samples needs a batch of them, [B, ...], got an input of {tuple(input.shape)}"
            )
        return self._record

    def _record(self, moment: Tensor, samples: int) -> None:
        current = torch._C._current_graph_task_id()
        if current == self._recorded:
            raise RuntimeError(
                f"this {type(self).__name__} is used twice in one pass; its second moment would need the sum of both "
                "uses of a sample before squaring: give every use a layer of its own"
            )
        self._recorded = current
        self.moment = moment if self.moment is None else self.moment.add_(moment)
        self.samples += samples

    def active_weight(self, weight: Tensor) -> Tensor:
        """What is multiplied, `[capacity]`: the entries of `weight` at the pattern. A subclass may return a function of
        them, which is differentiated with `weight_gradient="active"`."""
        return active_values(weight, self.index)

    def dense_weight(self) -> Tensor:
        return self.topology.dense(self.active_weight(self.weight))

    def __getstate__(self) -> dict[str, Any]:
        """Of copies and pickles, which have not seen a backward pass."""
        return {**super().__getstate__(), "moment": None, "samples": 0, "_recorded": -1}

    def pattern_repr(self) -> str:
        return f"{super().pattern_repr()}, weight_gradient={self.weight_gradient}"

    def empty_weight(self, capacity: int, **factory: Any) -> Tensor:
        return torch.empty(self.weight_shape, **factory)

    def reset_weight(self, generator: torch.Generator | None) -> None:
        """As the dense twin draws them."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5, generator=generator)

    def take_weight(self, module: nn.Module) -> None:
        self.weight.copy_(module.weight)  # type: ignore[arg-type]

    def adopt(self, weight: Tensor, row_ptr: Tensor, col: Tensor) -> Tensor:
        if weight.shape != self.weight_shape:
            raise ValueError(f"expected a weight of shape {self.weight_shape}, got {tuple(weight.shape)}")
        self._adopt_pattern(row_ptr, col, max(col.numel(), self.col.numel()))
        return weight


class MaskedLinear(LinearProduct, MaskedLayer):
    """`y = x (m * W)^T + b` with a dense master weight W and a sparse mask m, whose zeros are not multiplied.

    The constructor is that of `nn.Linear` plus exactly one of `sparsity` (a random pattern, G(n, M)) and `topology`;
    weights are drawn as there. `set_topology` changes the mask.

    Attributes:
        weight: Parameter `[out_features, in_features]`; entries off the pattern keep their values.
        weight_gradient: "dense" (straight-through; the default), "active" (zero off the pattern) or "moment" (dense,
            with the second moment of the samples' shares).
        bias: Parameter `[out_features]` or None.
        kernel, reason: the kernel in use ("csr", "tiled", "dense" or "masked") and why.

    Shapes: input `[..., in_features]`, output `[..., out_features]`. `state_dict` holds `weight` and the pattern as
    `row_ptr` and `col` `[nnz]`, and loads into a layer of any pattern.

    Raises:
        ValueError: not exactly one of `sparsity` and `topology`, or one that does not fit; an unknown `backend` or
            `weight_gradient`.
    """


class MaskedConv2d(Conv2dProduct, MaskedLayer):
    """2-D convolution with a dense master weight and a sparse mask, whose zeros are not multiplied.

    The constructor is that of `nn.Conv2d` plus exactly one of `sparsity` (a random pattern, G(n, M)) and `topology`
    (of the weight's shape); weights are drawn as there. `set_topology` changes the mask.

    Attributes:
        weight: Parameter `[out, in / groups, kernel height, kernel width]`; entries off the pattern keep their values.
        weight_gradient: "dense" (straight-through; the default), "active" (zero off the pattern) or "moment" (dense,
            with the second moment of the samples' shares).
        bias: Parameter `[out_channels]` or None.
        kernel, reason: the kernel in use ("csr", "dense" or "masked") and why.

    Shapes: input `[batch, in_channels, height, width]` or without the batch, output alike and in the same memory
    format. `state_dict` holds `weight` and the pattern as `row_ptr` and `col` `[nnz]`, and loads into a layer of any
    pattern.

    Raises:
        ValueError: not exactly one of `sparsity` and `topology`, or one that does not fit; an unknown `backend` or
            `weight_gradient`; a geometry that `nn.Conv2d` does not take.
    """

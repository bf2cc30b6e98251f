"""Products with a dense master weight of which only the entries of a pattern take part.

They are products of the sparse operators with `active_values`. The weight's gradient is then zero off the pattern;
`straight_through` gives every entry the gradient that it would have in the product.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..private_torch import in_forward_mode
from .conv import Window
from .moment import moment_of
from .passes import Use, running, use_of

_ops = torch.ops.sparsekern


def active_values(weight: Tensor, index: list[Tensor]) -> Tensor:
    """The entries of a dense weight at a pattern: one pass over the nonzeros.

    Differentiable: the gradient is dense, zero off the pattern.

    Args:
        weight: `[out, ...]`, viewed `[out, cols]`.
        index: `Topology.index`.

    Returns:
        `[capacity]`, zero in the slack.

    Raises:
        ValueError: the weight has not the extent of the pattern.
    """
    rows, cols = index[0].shape[0] - 1, index[2].shape[0] - 1
    if weight.dim() < 2 or weight.shape[0] != rows or weight.numel() != rows * cols:
        raise ValueError(f"weight must have {rows} rows of {cols} entries, got shape {tuple(weight.shape)}")
    return _ActiveValues.apply(weight.reshape(rows, cols), index[0], index[1])  # type: ignore[return-value]


def dense_weight(values: Tensor, row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """The matrix `[rows, cols]` of the values `[capacity]` of a pattern, zeros in place. Differentiable in `values`."""
    if in_forward_mode():  # of which PyTorch's own operators know the derivatives
        slots = torch.arange(col.shape[0], dtype=row_ptr.dtype, device=row_ptr.device)
        rows = torch.searchsorted(row_ptr[1:], slots, right=True)  # slack lies behind the last one
        dense = values.new_zeros(row_ptr.shape[0] * cols).index_add(0, rows * cols + col, values)
        return dense.reshape(row_ptr.shape[0], cols)[:-1]
    return _Dense.apply(values, row_ptr, col, cols)  # type: ignore[return-value]


def effective(weight: Tensor, masked: Tensor) -> Tensor:
    """`masked`, of which `weight` gets the gradient at every entry (straight-through)."""
    return _Effective.apply(weight, masked)  # type: ignore[return-value]


Record = Callable[[Use, Tensor, Tensor, int], None]


def straight_through(
    output: Tensor, input: Tensor, weight: Tensor, window: Window | None = None, record: Record | None = None
) -> Tensor:
    """`output` itself; in its backward pass `weight` gets, at every entry, the gradient of the weight that took part in
    the product (Lin et al., Dynamic Model Pruning with Feedback, ICLR 2020, eq. 3).

    Args:
        output: the product of `input` with `active_values(weight.detach(), index)`.
        input: `[*, cols]`, or of a convolution `[batch, channels, height, width]` or without the batch.
        weight: dense; only its shape and dtype matter.
        window: how a convolution moves over its input (`ops.conv.window`); a linear layer has none.
        record: if given, a backward pass that is asked for the gradient calls it with its use of the weight, the
            gradient, the second moment of the samples' shares of it, in fp32 or wider, and the number of samples; they
            are the first dimension of `input`.
    """
    return _StraightThrough.apply(output, input.detach(), weight, window, record)  # type: ignore[return-value]


def weight_gradient(
    grad_output: Tensor, input: Tensor, shape: tuple[int, ...] = (), window: Window | None = None
) -> Tensor:
    """dL/dW, dense: of a linear layer, or of a convolution whose weight has `shape`."""
    if window is None:
        samples = prod(input.shape[:-1])  # -1 would be ambiguous where there are no features
        return grad_output.reshape(samples, grad_output.shape[-1]).t() @ input.reshape(samples, input.shape[-1])
    _, stride, (top, bottom, left, right), dilation, groups = window
    padding = [top, left]
    if top != bottom or left != right:
        input, padding = torch.nn.functional.pad(input, (left, right, top, bottom)), [0, 0]
    if input.dim() == 3:
        input, grad_output = input.unsqueeze(0), grad_output.unsqueeze(0)
    weight = input.new_empty(1).expand(shape)  # of which only the shape matters
    return torch.ops.aten.convolution_backward(
        grad_output, input, weight, None, stride, padding, dilation, False, [0, 0], groups, [False, True, False]
    )[1]


class _ActiveValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, row_ptr: Tensor, col: Tensor) -> Tensor:
        ctx.save_for_backward(row_ptr, col)
        ctx.shape = weight.shape
        values = weight.new_zeros(col.shape)
        _ops.collect(weight, row_ptr, col, 0, weight.shape[0], values)
        return values

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        row_ptr, col = ctx.saved_tensors
        return _Dense.apply(grad_outputs[0], row_ptr, col, ctx.shape[1]), None, None


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
        ctx.save_for_backward(row_ptr, col)
        return _ops.expand(values.contiguous(), row_ptr, col, 0, row_ptr.shape[0] - 1, cols)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        return _ActiveValues.apply(grad_outputs[0].contiguous(), *ctx.saved_tensors), None, None, None


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, output: Tensor, input: Tensor, weight: Tensor, window: Window | None, record: Record | None
    ) -> Tensor:
        if ctx.needs_input_grad[2]:
            ctx.save_for_backward(input)
        ctx.shape, ctx.window, ctx.record = weight.shape, window, record
        if record is not None:
            ctx.began_in = running()
        return output.detach()  # of the same memory, and no view to autograd: it may be changed in place

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        if torch.is_grad_enabled():
            # The sparse operators have no formula for it: their results would pass for constants.
            raise RuntimeError("sparse layers have no second derivatives: do without create_graph=True")
        (delta,) = grad_outputs
        if not ctx.needs_input_grad[2]:
            return delta, None, None, None, None
        (input,) = ctx.saved_tensors
        # Under autocast the output, and so its gradient, is narrower than the input.
        input = input.to(delta.dtype)
        if ctx.record is None:
            gradient = weight_gradient(delta, input, ctx.shape, ctx.window)
        elif (use := use_of(ctx, ctx.began_in)) is None:
            gradient = None
        else:
            gradient, moment = moment_of(delta, input, ctx.window)
            ctx.record(use, gradient, moment, input.shape[0])
        return delta, None, gradient, None, None


class _Effective(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, masked: Tensor) -> Tensor:
        return masked.detach()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        return grad_outputs[0], None

"""Gradients of a dense master weight at every entry (straight-through), whatever part of it was multiplied.

A product of `active_values` gives the weight a gradient that is zero off the pattern; `straight_through` gives every
entry the gradient that it would have in the product.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from .backend import derivatives
from .conv2d_gradient_moment import moment_of
from .conv_geometry import ConvGeometry
from .expand import active_values
from .index import Index
from .passes import WeightUse, running, weight_use
from .torch_products import Convolution, Lookup
from .transforms import NO_SECOND_DERIVATIVES, refuse_transforms

Record = Callable[[WeightUse, Tensor, Tensor, int], None]
Operation = ConvGeometry | Convolution | Lookup  # of a product that is not that of a linear layer


def straight_through(
    output: Tensor, input: Tensor, weight: Tensor, operation: Operation | None = None, record: Record | None = None
) -> Tensor:
    """Returns `output`; in its backward pass `weight` gets, at every entry, the gradient of the weight that took part
    in the product (Lin et al., Dynamic Model Pruning with Feedback, ICLR 2020, eq. 3).

    Args:
        output: the product of `input` with `active_values(weight.detach(), index)`.
        input: `[*, cols]`, or of a convolution `[batch, channels, height, width]` or without the batch.
        weight: dense; only its shape and dtype matter.
        operation: the product; None for that of a linear layer.
        record: if given, a backward pass that is asked for the gradient calls it with its use of the weight, the
            gradient, the second moment of the samples' shares of it, in fp32 or wider, and the number of samples; they
            are the first dimension of `input`.
    """
    refuse_transforms()
    return _StraightThrough.apply(output, input.detach(), weight, operation, record)  # type: ignore[return-value]


def straight_product(
    op: Any, input: Tensor, weight: Tensor, index: Index, bias: Tensor | None, geometry: ConvGeometry | None = None
) -> Tensor:
    """Computes the product `op` of `input` with the entries of a dense weight at a pattern; the weight gets its
    gradient at every entry. Everything has been checked."""
    if (compiled := derivatives(input)) is not None:
        numbers = [] if geometry is None else geometry.numbers
        return compiled.straight_product(op.name(), input, weight, index, bias, numbers)
    values, options = active_values(weight.detach(), index), (index.rows,) if geometry is None else geometry
    output = op(input, values, list(index), bias, *options)
    trained = torch.is_grad_enabled() and weight.requires_grad
    return straight_through(output, input, weight, geometry) if trained else output


def effective(weight: Tensor, masked: Tensor) -> Tensor:
    """Returns `masked`, of which `weight` gets the gradient at every entry (straight-through)."""
    refuse_transforms()
    return _Effective.apply(weight, masked)  # type: ignore[return-value]


def weight_gradient(
    grad_output: Tensor, input: Tensor, shape: tuple[int, ...] = (), operation: Operation | None = None
) -> Tensor:
    """Computes dL/dW, dense: of a linear layer, or of a convolution whose weight has `shape`, which may leave out a
    height of 1."""
    if operation is None:
        samples = prod(input.shape[:-1])  # -1 would be ambiguous where there are no features
        return grad_output.reshape(samples, grad_output.shape[-1]).t() @ input.reshape(samples, input.shape[-1])
    if isinstance(operation, Convolution | Lookup):
        return operation.weight_gradient(grad_output, input, shape)
    geometry = ConvGeometry(*operation)
    input = geometry.padded(input)
    if input.dim() == 3:
        input, grad_output = input.unsqueeze(0), grad_output.unsqueeze(0)
    weight = input.new_empty(1).expand(*shape[:2], *geometry.kernel_size)  # of which only the shape matters
    return geometry.backward(grad_output, input, weight, [False, True, False])[1].reshape(shape)


def gradient_and_moment(
    grad_output: Tensor, input: Tensor, shape: tuple[int, ...], operation: Operation | None
) -> tuple[Tensor, Tensor]:
    """Computes `weight_gradient` and its second moment over samples, both of `shape`, in fp32 or wider."""
    if isinstance(operation, Convolution | Lookup):
        return operation.moment(grad_output, input, shape)
    gradient, moment = moment_of(grad_output, input, operation)
    return gradient.reshape(shape), moment.reshape(shape)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, output: Tensor, input: Tensor, weight: Tensor, operation: Operation | None, record: Record | None
    ) -> Tensor:
        if ctx.needs_input_grad[2]:
            ctx.save_for_backward(input)
        ctx.shape, ctx.operation, ctx.record = weight.shape, operation, record
        if record is not None:
            ctx.began_in = running()
        return output.detach()  # of the same memory, and no view to autograd: it may be changed in place

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        if torch.is_grad_enabled():
            raise RuntimeError(NO_SECOND_DERIVATIVES)
        (delta,) = grad_outputs
        if not ctx.needs_input_grad[2]:
            return delta, None, None, None, None
        (input,) = ctx.saved_tensors
        # Under autocast the output, and so its gradient, is narrower than the input.
        input = input.to(delta.dtype) if input.is_floating_point() else input
        if ctx.record is None:
            gradient = weight_gradient(delta, input, ctx.shape, ctx.operation)
        elif (use := weight_use(ctx, ctx.began_in)) is None:
            gradient = None
        else:
            gradient, moment = gradient_and_moment(delta, input, ctx.shape, ctx.operation)
            ctx.record(use, gradient, moment, input.shape[0])
        return delta, None, gradient, None, None


class _Effective(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, masked: Tensor) -> Tensor:
        return masked.detach()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        return grad_outputs[0], None

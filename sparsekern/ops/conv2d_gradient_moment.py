"""The weight gradient of a convolution with its per-sample second moment: `conv2d_gradient_moment`."""

from typing import Any

import torch
from torch import Tensor

from .conv_geometry import SCHEMA, ConvGeometry, Pair
from .gradient_moment import gradient_moment
from .library import define
from .operands import check_conv2d_gradient
from .shapes import accumulate_dtype


def conv2d_gradient_moment(
    grad_output: Tensor,
    input: Tensor,
    *,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Computes the weight gradient of a 2-D convolution and its per-sample second moment, in one pass: `sum_n a_n` and
    `sum_n a_n^2`, where a_n is the gradient that image n alone gives the weight.

    Args:
        grad_output: `[B, out, out height, out width]`, any strides.
        input: `[B, channels, height, width]`, dtype of `grad_output`, any strides.
        kernel_size, stride, padding, dilation, groups: as in `sparse_conv2d`.

    Returns:
        Gradient and moment `[out, channels / groups, kernel height, kernel width]`, both in the dtype of the sums:
        fp32, or fp64 if the arguments are. No share of an image is stored.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    geometry = ConvGeometry.of(kernel_size, stride, padding, dilation, groups)
    check_conv2d_gradient(grad_output, input, geometry)
    return torch.ops.sparsekern.conv2d_gradient_moment(grad_output, input, *geometry)


def moment_of(grad_output: Tensor, input: Tensor, geometry: ConvGeometry | None) -> tuple[Tensor, Tensor]:
    """Computes gradient and moment of the weight of a linear layer (None) or of a convolution."""
    if geometry is None:
        return gradient_moment(grad_output, input)
    kernel, stride, padding, dilation, groups = geometry
    return conv2d_gradient_moment(
        grad_output, input, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def conv2d_gradient_moment_reference(grad_output: Tensor, input: Tensor, *geometry: Any) -> tuple[Tensor, Tensor]:
    """`sum_n a_n` and `sum_n a_n^2`, a_n the gradient that image n alone gives the weight: fp32 or wider."""
    wide, w = accumulate_dtype(input.dtype), ConvGeometry(*geometry)
    weight = w.kernels(input.new_zeros(1, dtype=wide).expand(grad_output.shape[1], w.cols(input)))
    gradient, moment = (torch.zeros(weight.shape, dtype=wide, device=input.device) for _ in range(2))
    for delta, h in zip(grad_output.split(1), input.split(1), strict=True):
        if delta.numel() and h.numel():
            share = w.backward(delta.to(wide), w.padded(h.to(wide)), weight, [False, True, False])[1]
            gradient += share
            moment.addcmul_(share, share)
    return gradient, moment


def conv2d_gradient_moment_fake(grad_output: Tensor, input: Tensor, *geometry: Any) -> tuple[Tensor, Tensor]:
    w = ConvGeometry(*geometry)
    shape = (grad_output.shape[1], input.shape[1] // w.groups, *w.kernel_size)
    gradient = input.new_empty(shape, dtype=accumulate_dtype(input.dtype))
    return gradient, torch.empty_like(gradient)


define(
    f"conv2d_gradient_moment(Tensor grad_output, Tensor input, {SCHEMA}) -> (Tensor, Tensor)",
    reference=conv2d_gradient_moment_reference,
    fake=conv2d_gradient_moment_fake,
)

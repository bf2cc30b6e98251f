"""The weight gradient of a convolution at a list of coordinates: `sampled_conv2d_gradient`."""

from typing import Any

import torch
from torch import Tensor

from .conv_geometry import SCHEMA, ConvGeometry, Pair
from .index import Index
from .library import define
from .operands import check_conv2d_gradient, check_coordinates
from .sampled_gradient import sampled_gradient_fake
from .shapes import accumulate_dtype

_ops = torch.ops.sparsekern


def sampled_conv2d_gradient(
    grad_output: Tensor,
    input: Tensor,
    coordinates: Tensor,
    *,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Computes the weight gradient of a 2-D convolution at some coordinates.

    Args:
        grad_output: `[batch, out, out height, out width]`, dtype of `input`.
        input: `[batch, channels, height, width]`.
        coordinates: int64 `[n]`, flat coordinates in the weight `[out, channels / groups, kernel height, kernel
            width]`; fastest when ascending and distinct.
        kernel_size, stride, padding, dilation, groups: as in `sparse_conv2d`.

    Returns:
        `[n]` in fp32, or fp64 if the arguments are. The kernels make nothing of the size of the weight.

    Raises:
        ValueError: shapes or dtypes that do not fit; coordinates out of range, where a GPU, which is not waited for,
            returns NaN.
    """
    geometry = ConvGeometry.of(kernel_size, stride, padding, dilation, groups)
    check_coordinates(coordinates)
    check_conv2d_gradient(grad_output, input, geometry)
    return _ops.sampled_conv2d_gradient(grad_output, input, coordinates, *geometry)


def sampled_conv2d_gradient_reference(
    grad_output: Tensor, input: Tensor, coordinates: Tensor, *geometry: Any
) -> Tensor:
    """Computes the gradient of the values of a pattern that has the coordinates; fp32 or wider."""
    cols = ConvGeometry(*geometry).cols(input)
    ascending = bool((coordinates[1:] > coordinates[:-1]).all())
    distinct, inverse = (coordinates, None) if ascending else coordinates.unique(return_inverse=True)
    row_ptr, col = _ops.compress(distinct, grad_output.shape[1], cols, distinct.numel())
    none = col.new_empty(0)
    # Of the transposed index only the number of columns is looked at.
    index = Index(row_ptr, col, col.new_zeros(cols + 1), none, none, none, none, none)
    delta, h = (tensor.to(accumulate_dtype(tensor.dtype)) for tensor in (grad_output, input))
    backward = _ops.expanded_conv2d_backward if h.is_cuda else _ops.sparse_conv2d_backward
    gradient = backward(delta, h, h.new_zeros(distinct.shape), index, False, True, False, *geometry)[1]
    return gradient if inverse is None else gradient[inverse]


define(
    f"sampled_conv2d_gradient(Tensor grad_output, Tensor input, Tensor coordinates, {SCHEMA}) -> Tensor",
    reference=sampled_conv2d_gradient_reference,
    fake=sampled_gradient_fake,
)

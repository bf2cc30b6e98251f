"""Checks of operands that several operators share. They look at metadata only: they run in every forward pass."""

import torch
from torch import Tensor

from .conv_geometry import ConvGeometry
from .index import SEGMENT, Index
from .shapes import FLOATS


def autocast(input: Tensor, values: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns the operands in the dtype of autocast, where that is enabled."""
    device = input.device.type
    if device == "meta" or not torch.is_autocast_enabled(device) or input.dtype == torch.float64:
        return input, values, bias
    dtype = torch.get_autocast_dtype(device)
    return input.to(dtype), values.to(dtype), None if bias is None else bias.to(dtype)


def check_linear(input: Tensor, weight: Tensor, index: Index, bias: Tensor | None, *, masked: bool = False) -> int:
    """Checks the operands of a linear layer; returns the number of rows.

    Args:
        masked: whether `weight` must be dense and the index hold a bitmask; otherwise it may be a value vector.

    Raises:
        ValueError: they do not fit each other.
    """
    rows, cols = index.rows, index.cols
    if input.layout != torch.strided:
        raise ValueError(f"input must be a dense tensor, got layout {input.layout}")
    if input.dim() == 0 or input.shape[-1] != cols:
        raise ValueError(f"input must have {cols} features in its last dimension, got shape {tuple(input.shape)}")
    _check_weight(input, weight, index, bias, (rows, cols), masked)
    return rows


def check_conv2d(
    input: Tensor, weight: Tensor, index: Index, bias: Tensor | None, geometry: ConvGeometry, *, masked: bool = False
) -> None:
    """Checks the operands of a convolution, as `check_linear` does those of a linear layer."""
    if input.layout != torch.strided:
        raise ValueError(f"input must be a dense tensor, got layout {input.layout}")
    if input.dim() not in (3, 4):
        raise ValueError(f"input must be [batch, channels, height, width], got shape {tuple(input.shape)}")
    kernel, groups = geometry.kernel_size, geometry.groups
    rows, cols, channels = index.rows, index.cols, input.shape[-3]
    if groups < 1 or rows % groups or channels % groups:
        raise ValueError(f"groups must divide {channels} input and {rows} output channels, got {groups}")
    if channels // groups * kernel[0] * kernel[1] != cols:
        raise ValueError(
            f"index describes {cols} weights for an output channel, but {channels} input channels in {groups} groups "
            f"and a kernel of {tuple(kernel)} have {channels // groups * kernel[0] * kernel[1]}"
        )
    _check_weight(input, weight, index, bias, (rows, channels // groups, *kernel), masked)
    if min(geometry.output_size(input.shape[-2:])) < 1:
        raise ValueError(
            f"a kernel of {kernel} with dilation {geometry.dilation} does not fit an input of "
            f"{tuple(input.shape[-2:])} padded by {geometry.padding} (top, bottom, left, right)"
        )


def _check_weight(
    input: Tensor, weight: Tensor, index: Index, bias: Tensor | None, shape: tuple[int, ...], masked: bool
) -> None:
    """Checks a value vector, or a dense weight of `shape`, and the bias."""
    rows, dense = shape[0], masked or weight.dim() == len(shape)
    if not dense:
        if weight.dim() != 1 or weight.shape[0] != index.capacity:
            raise ValueError(f"values must have the shape ({index.capacity},) of col, got {tuple(weight.shape)}")
    elif weight.shape != shape:
        raise ValueError(f"weight must have the shape {tuple(shape)}, got {tuple(weight.shape)}")
    elif masked and index.bits.shape != (rows, (index.cols + SEGMENT - 1) // SEGMENT):
        raise ValueError('index must hold the bitmask: take it from a Topology with views={"bitmask"}')
    if weight.dtype != input.dtype:
        raise ValueError(
            f"{'weight' if dense else 'values'} must have the input's dtype {input.dtype}, got {weight.dtype}"
        )
    if bias is not None and (bias.shape != (rows,) or bias.dtype != input.dtype):
        raise ValueError(f"bias must be {input.dtype} ({rows},), got {bias.dtype} {tuple(bias.shape)}")
    if not input.device == weight.device == index.row_ptr.device:
        raise ValueError(
            f"input, values and index must be on one device, got {input.device}, {weight.device}, "
            f"{index.row_ptr.device}"
        )


def check_linear_gradient(grad_output: Tensor, input: Tensor) -> None:
    """Checks that `grad_output` `[*, rows]` and `input` `[*, cols]` are of one linear layer.

    Raises:
        ValueError: they are not.
    """
    if grad_output.dtype != input.dtype or input.dtype not in FLOATS:
        raise ValueError(
            f"grad_output and input must have one floating-point dtype, got {grad_output.dtype} and {input.dtype}"
        )
    if input.dim() == 0 or grad_output.shape[:-1] != input.shape[:-1] or grad_output.dim() != input.dim():
        raise ValueError(
            f"grad_output and input must have the same leading dimensions, got {tuple(grad_output.shape)} and "
            f"{tuple(input.shape)}"
        )


def check_conv2d_gradient(grad_output: Tensor, input: Tensor, geometry: ConvGeometry) -> None:
    """Checks that `grad_output` `[batch, out, out height, out width]` is that of a convolution of `input`.

    Raises:
        ValueError: it is not.
    """
    groups = geometry.groups
    if input.dim() != 4 or grad_output.dim() != 4 or groups < 1 or input.shape[1] % groups:
        raise ValueError(
            f"grad_output and input must be [batch, channels, height, width], channels divisible by {groups}, got "
            f"{tuple(grad_output.shape)} and {tuple(input.shape)}"
        )
    rows = grad_output.shape[1]
    expected = (input.shape[0], rows, *geometry.output_size(input.shape[2:]))
    if grad_output.shape != expected or rows % groups or grad_output.dtype != input.dtype:
        raise ValueError(
            f"grad_output must be {input.dtype} {expected} with channels divisible by {groups}, got "
            f"{grad_output.dtype} {tuple(grad_output.shape)}"
        )


def check_coordinates(coordinates: Tensor) -> None:
    """Checks that these are flat coordinates, int64 `[n]`.

    Raises:
        ValueError: they are not.
    """
    if coordinates.dtype != torch.int64 or coordinates.dim() != 1:
        raise ValueError(f"coordinates must be int64 [n], got {coordinates.dtype} {tuple(coordinates.shape)}")


def check_state(target: Tensor, name: str, **others: Tensor) -> None:
    """Checks what a method keeps for every weight, and the tensors of its shape that it is updated with.

    Raises:
        ValueError: `target` is not contiguous, not fp32 or fp64; another is not floating point, or of another shape.
    """
    if target.dtype not in (torch.float32, torch.float64) or not target.is_contiguous():
        raise ValueError(f"{name} must be a contiguous tensor of float32 or float64, got {target.dtype}")
    for other, tensor in others.items():
        if tensor.shape != target.shape or not tensor.is_floating_point():
            raise ValueError(
                f"{other} must be floating-point {tuple(target.shape)}, got {tensor.dtype} {tuple(tensor.shape)}"
            )

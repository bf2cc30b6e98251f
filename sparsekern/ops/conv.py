"""Convolutions with a sparse weight."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .linear import _autocast, check_operand
from .shapes import image_format, output_size

sparse = torch.ops.sparsekern.sparse_conv2d.default
expanded = torch.ops.sparsekern.expanded_conv2d.default
masked = torch.ops.sparsekern.masked_conv2d.default

Pair = int | Sequence[int]
# kernel_size, stride, padding (top, bottom, left, right), dilation, groups: as the operators take them
Window = tuple[list[int], list[int], list[int], list[int], int]


def sparse_conv2d(
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    bias: Tensor | None = None,
    *,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """2-D convolution (cross-correlation) whose absent weights are neither stored nor multiplied, here and in the
    gradients.

    Differentiable in `input`, `values` and `bias`; under autocast it computes in the autocast dtype, as
    `torch.nn.functional.conv2d` does.

    Args:
        input: `[batch, channels, height, width]` or without the batch dimension, in any memory format.
        values: `[capacity]`, dtype of `input`; the weight in the order of the topology.
        index: `Topology.index` of the weight viewed `[out, channels / groups * kernel height * kernel width]`.
        bias: `[out]`, dtype of `input`. Operands may have any strides, but for the index.
        kernel_size, stride, dilation: a number or (height, width).
        padding: zeros around the input: a number, (height, width), (top, bottom, left, right), "valid" (none) or "same"
            (so that the output has the input's size; stride 1 only).
        groups: as in `torch.nn.functional.conv2d`.

    Returns:
        `[batch, out, out height, out width]`, dtype and memory format of `input`; sums are kept in fp32 or wider.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other, or a window that no convolution has.
    """
    return convolve(sparse, input, values, index, bias, window(kernel_size, stride, padding, dilation, groups))


def expanded_conv2d(
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    bias: Tensor | None = None,
    *,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """`sparse_conv2d` by dense products with panels (64 MiB at most) of the expanded weight: for weights that are
    hardly sparse. The same arguments, result and errors."""
    return convolve(expanded, input, values, index, bias, window(kernel_size, stride, padding, dilation, groups))


def masked_conv2d(
    input: Tensor,
    weight: Tensor,
    index: list[Tensor],
    bias: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
    active: bool = False,
) -> Tensor:
    """`conv2d(input, W * mask, bias)` with a dense W and the mask as bits; on a GPU without making W * mask.

    Args:
        weight: `[out, channels / groups, kernel height, kernel width]`, dtype of `input`.
        index: `Topology.index` with the view "bits".
        active: whether the gradient of `weight` is zero off the mask; otherwise it is that of the masked weight, at
            every entry (straight-through).

    The other arguments, the result and the errors are those of `sparse_conv2d`; an index without bits is one, too.
    """
    if weight.dim() != 4:
        raise ValueError(f"weight must be [out, channels, kernel height, kernel width], got {tuple(weight.shape)}")
    geometry = window(weight.shape[2:], stride, padding, dilation, groups)
    return convolve(masked, input, weight, index, bias, geometry, active)


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
    """The weight gradient of a 2-D convolution at some coordinates.

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
    geometry = window(kernel_size, stride, padding, dilation, groups)
    if coordinates.dtype != torch.int64 or coordinates.dim() != 1:
        raise ValueError(f"coordinates must be int64 [n], got {coordinates.dtype} {tuple(coordinates.shape)}")
    check_gradient(grad_output, input, geometry)
    return torch.ops.sparsekern.sampled_conv2d_gradient(grad_output, input, coordinates, *geometry)


def check_gradient(grad_output: Tensor, input: Tensor, window: Window) -> None:
    """Whether `grad_output` `[batch, out, out height, out width]` is that of a convolution of `input`.

    Raises:
        ValueError: it is not.
    """
    kernel, strides, pads, dilations, groups = window
    if input.dim() != 4 or grad_output.dim() != 4 or groups < 1 or input.shape[1] % groups:
        raise ValueError(
            f"grad_output and input must be [batch, channels, height, width], channels divisible by {groups}, got "
            f"{tuple(grad_output.shape)} and {tuple(input.shape)}"
        )
    rows, size = grad_output.shape[1], output_size(input.shape[2:], kernel, strides, pads, dilations)
    expected = (input.shape[0], rows, *size)
    if grad_output.shape != expected or rows % groups or grad_output.dtype != input.dtype:
        raise ValueError(
            f"grad_output must be {input.dtype} {expected} with channels divisible by {groups}, got "
            f"{grad_output.dtype} {tuple(grad_output.shape)}"
        )


def convolve(
    op: Callable[..., Tensor],
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    bias: Tensor | None,
    window: Window,
    *active: bool,
) -> Tensor:
    """`op`, which is `sparse`, `expanded` or, followed by what `active` says of it, `masked`, on arguments that are
    checked here, in the memory format of `input`."""
    input, values, bias = _autocast(input, values, bias)
    kernel, strides, pads, dilations, groups = window
    _check(input, values, index, bias, kernel, groups, op is masked)
    unbatched = input.dim() == 3
    if unbatched:
        input = input.unsqueeze(0)
    if min(output_size(input.shape[2:], kernel, strides, pads, dilations)) < 1:
        raise ValueError(
            f"a kernel of {kernel} with dilation {dilations} does not fit an input of {tuple(input.shape[2:])} padded "
            f"by {pads} (top, bottom, left, right)"
        )
    output = op(input, values, index, bias, kernel, strides, pads, dilations, groups, *active)
    output = output.contiguous(memory_format=image_format(input))
    return output[0] if unbatched else output


def _pair(value: Pair, name: str, least: int = 1) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value)
    if len(pair) != 2 or not all(isinstance(n, int) and least <= n < 2**31 - 1 for n in pair):
        raise ValueError(
            f"{name} must be a whole number or a pair of them, at least {least} and below 2**31 - 1, got {value!r}"
        )
    return pair


def window(kernel_size: Pair, stride: Pair, padding: Pair | str, dilation: Pair, groups: int) -> Window:
    """How a convolution moves over its input, as the operators take it.

    Raises:
        ValueError: an argument that `sparse_conv2d` does not take.
    """
    kernel, strides = _pair(kernel_size, "kernel_size"), _pair(stride, "stride")
    dilations = _pair(dilation, "dilation")
    return kernel, strides, four_sides(padding, kernel, strides, dilations), dilations, groups


def four_sides(padding: Pair | str, kernel: list[int], stride: list[int], dilation: list[int]) -> list[int]:
    """Padding as (top, bottom, left, right).

    Raises:
        ValueError: `padding` is not one that `sparse_conv2d` takes.
    """
    if isinstance(padding, str):
        if padding == "valid":
            return [0, 0, 0, 0]
        if padding != "same":
            raise ValueError(f'padding must be numbers, "same" or "valid", got {padding!r}')
        if stride != [1, 1]:
            raise ValueError(f'padding="same" needs stride 1, got {tuple(stride)}')
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [side for total in totals for side in (total // 2, total - total // 2)]
    if not isinstance(padding, int) and len(padding) == 4:
        top, bottom = _pair(padding[:2], "padding", 0)
        return [top, bottom, *_pair(padding[2:], "padding", 0)]
    height, width = _pair(padding, "padding", 0)
    return [height, height, width, width]


def _check(
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    bias: Tensor | None,
    kernel: list[int],
    groups: int,
    dense: bool,
) -> None:
    """Whether everything fits. Looks at metadata only: it is called in every forward pass."""
    if len(index) != 8:
        raise ValueError(f"index must hold the 8 tensors of Topology.index, got {len(index)}")
    if input.layout != torch.strided:
        raise ValueError(f"input must be a dense tensor, got layout {input.layout}")
    if input.dim() not in (3, 4):
        raise ValueError(f"input must be [batch, channels, height, width], got shape {tuple(input.shape)}")
    rows, cols, channels = index[0].shape[0] - 1, index[2].shape[0] - 1, input.shape[-3]
    if groups < 1 or rows % groups or channels % groups:
        raise ValueError(f"groups must divide {channels} input and {rows} output channels, got {groups}")
    if channels // groups * kernel[0] * kernel[1] != cols:
        raise ValueError(
            f"index describes {cols} weights for an output channel, but {channels} input channels in {groups} groups "
            f"and a kernel of {tuple(kernel)} have {channels // groups * kernel[0] * kernel[1]}"
        )
    check_operand(values, index, (rows, channels // groups, *kernel) if dense else None)
    if values.dtype != input.dtype:
        raise ValueError(
            f"{'weight' if dense else 'values'} must have the input's dtype {input.dtype}, got {values.dtype}"
        )
    if bias is not None and (bias.shape != (rows,) or bias.dtype != input.dtype):
        raise ValueError(f"bias must be {input.dtype} ({rows},), got {bias.dtype} {tuple(bias.shape)}")
    if not input.device == values.device == index[0].device:
        raise ValueError(
            f"input, values and index must be on one device, got {input.device}, {values.device}, {index[0].device}"
        )

"""Convolutions with a sparse weight: `sparse_conv2d`, and `expanded_conv2d` for weights that are hardly sparse.

The index describes the weight viewed `[out, channels / groups * kernel height * kernel width]`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .conv_geometry import SCHEMA, ConvGeometry, Pair
from .expand import collect_panel, collect_reference, expand_reference, group_panels, panel
from .index import Index
from .library import define
from .operands import autocast, check_conv2d
from .shapes import accumulate_dtype, empty_image, image_format
from .straight_through import straight_product

_ops = torch.ops.sparsekern


def sparse_conv2d(
    input: Tensor,
    values: Tensor,
    index: Sequence[Tensor],
    bias: Tensor | None = None,
    *,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Computes a 2-D convolution (cross-correlation) whose absent weights are neither stored nor multiplied, here and
    in the gradients.

    Differentiable in `input`, `values` and `bias`; under autocast it computes in the autocast dtype, as
    `torch.nn.functional.conv2d` does.

    Args:
        input: `[batch, channels, height, width]` or without the batch dimension, in any memory format.
        values: `[capacity]`, dtype of `input`; the weight in the order of the topology. Or a dense weight, as
            `sparse_linear` takes it, `[out, channels / groups, kernel height, kernel width]`.
        index: `Topology.index` of the weight viewed `[out, channels / groups * kernel height * kernel width]`.
        bias: `[out]`, dtype of `input`. Operands may have any strides, but for the index.
        kernel_size, stride, dilation: a number or (height, width).
        padding: zeros around the input: a number, (height, width), (top, bottom, left, right), "valid" (none) or "same"
            (so that the output has the input's size; stride 1 only).
        groups: as in `torch.nn.functional.conv2d`.

    Returns:
        `[batch, out, out height, out width]`, dtype and memory format of `input`; sums are kept in fp32 or wider.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other, or a geometry that no convolution has.
    """
    return convolve(sparse, input, values, index, bias, ConvGeometry.of(kernel_size, stride, padding, dilation, groups))


def expanded_conv2d(
    input: Tensor,
    values: Tensor,
    index: Sequence[Tensor],
    bias: Tensor | None = None,
    *,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Computes `sparse_conv2d` by dense products with panels (64 MiB at most) of the expanded weight, for weights that
    are hardly sparse. Arguments, result and errors are the same."""
    return convolve(
        expanded, input, values, index, bias, ConvGeometry.of(kernel_size, stride, padding, dilation, groups)
    )


def convolve(
    op: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    index: Sequence[Tensor],
    bias: Tensor | None,
    geometry: ConvGeometry,
    *active: bool,
) -> Tensor:
    """Checks the arguments of a convolution and calls its operator: `sparse`, `expanded`, or `masked_conv2d.masked`,
    which alone is followed by `active`. The output has the memory format of `input`."""
    index, geometry = Index.of(index), ConvGeometry(*geometry)
    input, weight, bias = autocast(input, weight, bias)
    check_conv2d(input, weight, index, bias, geometry, masked=bool(active))
    unbatched = input.dim() == 3
    if unbatched:
        input = input.unsqueeze(0)
    if weight.dim() == 1 or active:
        output = op(input, weight, list(index), bias, *geometry, *active)
    else:
        output = straight_product(op, input, weight, index, bias, geometry)
    output = output.contiguous(memory_format=image_format(input))
    return output[0] if unbatched else output


# ---- references


def sparse_conv2d_reference(
    input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, *geometry: Any
) -> Tensor:
    """`conv2d(input, W, bias)`, sums kept in fp32 or wider."""
    wide, w = accumulate_dtype(input.dtype), ConvGeometry(*geometry)
    row_ptr, col = index[0], Index.of(index).columns
    weight = w.kernels(expand_reference(values.to(wide), row_ptr, col, 0, row_ptr.numel() - 1, w.cols(input)))
    output = w.convolve(w.padded(input.to(wide)), weight, None if bias is None else bias.to(wide)).to(input.dtype)
    return output.contiguous(memory_format=image_format(input))


def sparse_conv2d_backward_reference(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
    *geometry: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `sparse_conv2d`; what is not needed is returned with no elements."""
    wide, w = accumulate_dtype(input.dtype), ConvGeometry(*geometry)
    row_ptr, col = index[0], Index.of(index).columns
    rows, delta, h = row_ptr.numel() - 1, grad_output.to(wide), w.padded(input.to(wide))
    weight = w.kernels(expand_reference(values.to(wide), row_ptr, col, 0, rows, w.cols(input)))
    grad_h, grad_weight, _ = w.backward(delta, h, weight, [need_input, need_values, False])
    grad_values = torch.zeros_like(values) if need_values else values.new_empty(0)
    if need_values:
        collect_reference(grad_weight.reshape(rows, -1), row_ptr, col, 0, rows, grad_values)
    return (
        w.cropped(grad_h).to(input.dtype).contiguous(memory_format=image_format(input))
        if need_input
        else input.new_empty(0),
        grad_values,
        delta.sum((0, 2, 3)).to(values.dtype) if need_bias else values.new_empty(0),
    )


def expanded_conv2d_reference(
    input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, *geometry: Any
) -> Tensor:
    """`sparse_conv2d` by dense products with panels of the expanded weight."""
    w = ConvGeometry(*geometry)
    h, rows, outputs = w.padded(input), Index.of(index).rows, []
    for start, stop, groups in group_panels(rows, w.cols(input), values.element_size(), w.groups):
        weight = w.kernels(panel(values, index, start, stop, w.cols(input)))
        part, v = w.of_groups(h, groups)
        outputs.append(v.convolve(part, weight, None if bias is None else bias[start:stop]))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
    return output.contiguous(memory_format=image_format(input))


def expanded_conv2d_backward_reference(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
    *geometry: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `expanded_conv2d`, in the same panels."""
    w = ConvGeometry(*geometry)
    h, rows, cols = w.padded(input), Index.of(index).rows, w.cols(input)
    panels = group_panels(rows, cols, values.element_size(), w.groups) if need_input or need_values else []
    grad_h = torch.zeros_like(h) if need_input and len(panels) > 1 else input.new_empty(0)
    grad_values = torch.zeros_like(values) if need_values else values.new_empty(0)
    for start, stop, groups in panels:
        part, v = w.of_groups(h, groups)
        # Without a gradient of the input only the shape of the weight matters.
        dense = (
            panel(values, index, start, stop, cols) if need_input else values.new_empty(1).expand(stop - start, cols)
        )
        delta, mask = grad_output[:, start:stop], [need_input, need_values, False]
        grad_part, grad_weight, _ = v.backward(delta, part, w.kernels(dense), mask)
        if need_input and len(panels) > 1:
            w.of_groups(grad_h, groups)[0].add_(grad_part)
        elif need_input:
            grad_h = grad_part
        if need_values:
            collect_panel(grad_weight.reshape(stop - start, cols), index, start, stop, grad_values)
    return (
        w.cropped(grad_h).contiguous(memory_format=image_format(input)) if need_input else grad_h,
        grad_values,
        grad_output.sum((0, 2, 3)).to(values.dtype) if need_bias else values.new_empty(0),
    )


# ---- fakes


def sparse_conv2d_fake(
    input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, *geometry: Any
) -> Tensor:
    size = (input.shape[0], Index.of(index).rows, *ConvGeometry(*geometry).output_size(input.shape[2:]))
    return empty_image(input, size)


def sparse_conv2d_backward_fake(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
    *geometry: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        empty_image(input, input.shape) if need_input else input.new_empty(0),
        values.new_empty(values.shape if need_values else (0,)),
        values.new_empty(grad_output.shape[1:2] if need_bias else (0,)),
    )


FORWARD = f"(Tensor input, Tensor values, Tensor[] index, Tensor? bias, {SCHEMA}) -> Tensor"
BACKWARD = (
    "(Tensor grad_output, Tensor input, Tensor values, Tensor[] index, bool need_input, bool need_values, "
    f"bool need_bias, {SCHEMA}) -> (Tensor, Tensor, Tensor)"
)
define(f"sparse_conv2d{FORWARD}", reference=sparse_conv2d_reference, fake=sparse_conv2d_fake)
define(
    f"sparse_conv2d_backward{BACKWARD}",
    reference=sparse_conv2d_backward_reference,
    fake=sparse_conv2d_backward_fake,
)
define(f"expanded_conv2d{FORWARD}", reference=expanded_conv2d_reference, fake=sparse_conv2d_fake)
define(
    f"expanded_conv2d_backward{BACKWARD}",
    reference=expanded_conv2d_backward_reference,
    fake=sparse_conv2d_backward_fake,
)

sparse, expanded = _ops.sparse_conv2d.default, _ops.expanded_conv2d.default

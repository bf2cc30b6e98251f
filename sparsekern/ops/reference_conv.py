"""Convolution with a sparse weight in plain PyTorch. `index` describes the weight viewed `[out, in * kh * kw]`."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .reference import PANEL_BYTES, collect, expand, panel
from .schema import library
from .shapes import accumulate_dtype, image_format


class Window(NamedTuple):
    """How the kernel moves over the input; padding is (top, bottom, left, right)."""

    kernel_size: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    @property
    def sides(self) -> list[int]:
        """The padding that PyTorch's convolution applies itself: the same on opposite sides."""
        top, bottom, left, right = self.padding
        return [top, left] if (top, left) == (bottom, right) else [0, 0]

    def padded(self, input: Tensor) -> Tensor:
        """The input with the padding that is left to do."""
        top, bottom, left, right = self.padding
        return input if (top, left) == (bottom, right) else functional.pad(input, (left, right, top, bottom))

    def cropped(self, padded: Tensor) -> Tensor:
        top, bottom, left, right = self.padding
        if (top, left) == (bottom, right):
            return padded
        return padded[:, :, top : padded.shape[2] - bottom, left : padded.shape[3] - right].clone()

    def weight(self, matrix: Tensor) -> Tensor:
        """The rows of a matrix as kernels."""
        height, width = self.kernel_size
        return matrix.reshape(matrix.shape[0], matrix.shape[1] // (height * width), height, width)

    def cols(self, input: Tensor) -> int:
        return input.shape[1] // self.groups * self.kernel_size[0] * self.kernel_size[1]

    def of(self, input: Tensor, groups: slice) -> tuple[Tensor, "Window"]:
        """The channels of some groups, and the window over them alone."""
        width = input.shape[1] // self.groups
        part = input[:, groups.start * width : groups.stop * width]
        return part, self._replace(groups=groups.stop - groups.start)

    def convolve(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Of a padded input."""
        return functional.conv2d(input, weight, bias, self.stride, self.sides, self.dilation, self.groups)

    def backward(self, grad_output: Tensor, input: Tensor, weight: Tensor, mask: list[bool]) -> tuple:
        return torch.ops.aten.convolution_backward(
            grad_output, input, weight, None, self.stride, self.sides, self.dilation, False, [0, 0], self.groups, mask
        )


def sparse_conv2d(input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, *window) -> Tensor:
    """`conv2d(input, W, bias)`, sums kept in fp32 or wider."""
    wide, w = accumulate_dtype(input.dtype), Window(*window)
    weight = w.weight(expand(values.to(wide), index[0], index[1], 0, index[0].numel() - 1, w.cols(input)))
    return w.convolve(w.padded(input.to(wide)), weight, None if bias is None else bias.to(wide)).to(input.dtype)


def sparse_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
    *window,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `sparse_conv2d`; what is not needed is returned with no elements."""
    wide, w = accumulate_dtype(input.dtype), Window(*window)
    rows, delta, h = index[0].numel() - 1, grad_output.to(wide), w.padded(input.to(wide))
    weight = w.weight(expand(values.to(wide), index[0], index[1], 0, rows, w.cols(input)))
    grad_h, grad_weight, _ = w.backward(delta, h, weight, [need_input, need_values, False])
    grad_values = torch.zeros_like(values) if need_values else values.new_empty(0)
    if need_values:
        collect(grad_weight.reshape(rows, -1), index[0], index[1], 0, rows, grad_values)
    return (
        w.cropped(grad_h).to(input.dtype).contiguous() if need_input else input.new_empty(0),
        grad_values,
        delta.sum((0, 2, 3)).to(values.dtype) if need_bias else values.new_empty(0),
    )


def _panels(rows: int, cols: int, element_size: int, groups: int) -> list[tuple[int, int, slice]]:
    """Ranges of output channels whose dense kernels stay within `PANEL_BYTES`, and the groups that they belong to."""
    if rows * cols * element_size <= PANEL_BYTES:
        return [(0, rows, slice(0, groups))]
    height, step = rows // groups, max(1, PANEL_BYTES // max(1, cols * element_size))
    return [
        (start, min(start + step, (g + 1) * height), slice(g, g + 1))
        for g in range(groups)
        for start in range(g * height, (g + 1) * height, step)
    ]


def expanded_conv2d(input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, *window) -> Tensor:
    """`sparse_conv2d` by dense products with panels of the expanded weight: for weights that are hardly sparse."""
    w = Window(*window)
    h, rows, outputs = w.padded(input), index[0].numel() - 1, []
    for start, stop, groups in _panels(rows, w.cols(input), values.element_size(), w.groups):
        weight = w.weight(panel(values, index, start, stop, w.cols(input)))
        part, v = w.of(h, groups)
        outputs.append(v.convolve(part, weight, None if bias is None else bias[start:stop]))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
    return output.contiguous(memory_format=image_format(input))


def expanded_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
    *window,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `expanded_conv2d`, in the same panels."""
    w = Window(*window)
    h, rows, cols = w.padded(input), index[0].numel() - 1, w.cols(input)
    panels = _panels(rows, cols, values.element_size(), w.groups) if need_input or need_values else []
    grad_h = torch.zeros_like(h) if need_input and len(panels) > 1 else input.new_empty(0)
    grad_values = torch.zeros_like(values) if need_values else values.new_empty(0)
    for start, stop, groups in panels:
        part, v = w.of(h, groups)
        weight = w.weight((panel if need_input else _unread)(values, index, start, stop, cols))
        delta, mask = grad_output[:, start:stop], [need_input, need_values, False]
        grad_part, grad_weight, _ = v.backward(delta, part, weight, mask)
        if need_input and len(panels) > 1:
            w.of(grad_h, groups)[0].add_(grad_part)
        elif need_input:
            grad_h = grad_part
        if need_values:
            grad_weight = grad_weight.reshape(stop - start, cols)
            torch.ops.sparsekern.collect(grad_weight, index[0], index[1], start, stop, grad_values)
    return (
        w.cropped(grad_h).contiguous(memory_format=image_format(input)) if need_input else grad_h,
        grad_values,
        grad_output.sum((0, 2, 3)).to(values.dtype) if need_bias else values.new_empty(0),
    )


def sampled_conv2d_gradient(grad_output: Tensor, input: Tensor, coordinates: Tensor, *window) -> Tensor:
    """The weight gradient at flat coordinates, int64 `[n]`; fp32 or wider."""
    cols = Window(*window).cols(input)
    ascending = bool((coordinates[1:] > coordinates[:-1]).all())
    distinct, inverse = (coordinates, None) if ascending else coordinates.unique(return_inverse=True)
    row_ptr, col = torch.ops.sparsekern.compress(distinct, grad_output.shape[1], cols, distinct.numel())
    # Of the walk by columns only the number of columns is looked at.
    index = [row_ptr, col, col.new_zeros(cols + 1), *[col.new_empty(0)] * 5]
    delta, h = (tensor.to(accumulate_dtype(tensor.dtype)) for tensor in (grad_output, input))
    ops = torch.ops.sparsekern
    backward = ops.expanded_conv2d_backward if h.is_cuda else ops.sparse_conv2d_backward
    gradient = backward(delta, h, h.new_zeros(distinct.shape), index, False, True, False, *window)[1]
    return gradient if inverse is None else gradient[inverse]


def _unread(values: Tensor, index: list[Tensor], start: int, stop: int, cols: int) -> Tensor:
    """Stands for a weight of which only the shape matters."""
    return values.new_empty(1).expand(stop - start, cols)


for _name, _function in {
    "sparse_conv2d": sparse_conv2d,
    "sparse_conv2d_backward": sparse_conv2d_backward,
    "expanded_conv2d": expanded_conv2d,
    "expanded_conv2d_backward": expanded_conv2d_backward,
    "sampled_conv2d_gradient": sampled_conv2d_gradient,
}.items():
    library.impl(_name, _function, "CompositeExplicitAutograd")

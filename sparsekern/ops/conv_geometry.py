"""The geometry of a 2-D convolution: its kernel size, and how the kernel moves over the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Pair = int | Sequence[int]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
SCHEMA = "int[] kernel_size, int[] stride, int[] padding, int[] dilation, int groups"  # as operators take them


class ConvGeometry(NamedTuple):
    """The settings of a 2-D convolution as the operators take them, all pairs as (height, width).

    Attributes:
        padding: zeros around the input: (top, bottom, left, right).
    """

    kernel_size: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    @classmethod
    def of(cls, kernel_size: Pair, stride: Pair, padding: Pair | str, dilation: Pair, groups: int) -> ConvGeometry:
        """Makes the settings of the arguments of `sparse_conv2d`.

        Raises:
            ValueError: an argument that `sparse_conv2d` does not take.
        """
        kernel, strides = _pair(kernel_size, "kernel_size"), _pair(stride, "stride")
        dilations = _pair(dilation, "dilation")
        return cls(kernel, strides, _four_sides(padding, kernel, strides, dilations), dilations, groups)

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Returns height and width of the output for an input of `size` (height, width)."""
        kernel, stride, padding, dilation = self.kernel_size, self.stride, self.padding, self.dilation
        height, width = (
            (size[i] + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
            for i in range(2)
        )
        return height, width

    def cols(self, input: Tensor) -> int:
        """Counts the weights of an output channel, `channels / groups * kernel height * kernel width`."""
        return input.shape[1] // self.groups * self.kernel_size[0] * self.kernel_size[1]

    def kernels(self, matrix: Tensor) -> Tensor:
        """Returns the rows of a matrix `[out, cols]` as kernels `[out, channels / groups, kernel height, kernel
        width]`."""
        height, width = self.kernel_size
        return matrix.reshape(matrix.shape[0], matrix.shape[1] // (height * width), height, width)

    def of_groups(self, input: Tensor, groups: slice) -> tuple[Tensor, ConvGeometry]:
        """Returns the channels of some groups, and the convolution over them alone."""
        width = input.shape[1] // self.groups
        part = input[:, groups.start * width : groups.stop * width]
        return part, self._replace(groups=groups.stop - groups.start)

    @property
    def constants(self) -> tuple[int, ...]:
        """The numbers that Triton kernels take as `WINDOW`: kernel, strides, padding above and on the left,
        dilations."""
        top, _, left, _ = self.padding
        return (*self.kernel_size, *self.stride, top, left, *self.dilation)

    @property
    def numbers(self) -> list[int]:
        """All of it in one list, as csrc/autograd.cpp takes it."""
        kernel, stride, padding, dilation, groups = self
        return [*kernel, *stride, *padding, *dilation, groups]

    # ---- PyTorch's convolution, which pads alike on opposite sides: what it can't is padded before

    @property
    def _symmetric(self) -> bool:
        top, bottom, left, right = self.padding
        return (top, left) == (bottom, right)

    @property
    def sides(self) -> list[int]:
        """The padding that PyTorch's convolution applies itself, (height, width)."""
        return [self.padding[0], self.padding[2]] if self._symmetric else [0, 0]

    def padded(self, input: Tensor) -> Tensor:
        """Returns the input with the padding that PyTorch's convolution does not apply."""
        top, bottom, left, right = self.padding
        return input if self._symmetric else functional.pad(input, (left, right, top, bottom))

    def cropped(self, padded: Tensor) -> Tensor:
        """Undoes `padded`."""
        top, bottom, left, right = self.padding
        if self._symmetric:
            return padded
        return padded[:, :, top : padded.shape[2] - bottom, left : padded.shape[3] - right].clone()

    def convolve(self, padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Computes the dense convolution of a `padded` input."""
        return functional.conv2d(padded, weight, bias, self.stride, self.sides, self.dilation, self.groups)

    def backward(self, grad_output: Tensor, padded: Tensor, weight: Tensor, mask: list[bool]) -> tuple:
        """Computes the gradients of `convolve`; `mask` tells which of input, weight and bias need one."""
        options = (self.stride, self.sides, self.dilation, False, [0, 0], self.groups, mask)
        return torch.ops.aten.convolution_backward(grad_output, padded, weight, None, *options)


Window = ConvGeometry  # the name in older pickles


def check_convolution(in_channels: int, out_channels: int, groups: int, padding_mode: str) -> None:
    """Raises a `ValueError` for groups or a padding mode that convolutions do not take."""
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(f"groups must divide {in_channels} input and {out_channels} output channels, got {groups}")
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the padding at the start and at the end of each dimension that keeps the size of the input."""
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def _pair(value: Pair, name: str, least: int = 1) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value)
    if len(pair) != 2 or not all(isinstance(n, int) and least <= n < 2**31 - 1 for n in pair):
        raise ValueError(
            f"{name} must be a whole number or a pair of them, at least {least} and below 2**31 - 1, got {value!r}"
        )
    return pair


def _four_sides(padding: Pair | str, kernel: list[int], stride: list[int], dilation: list[int]) -> list[int]:
    """Padding as (top, bottom, left, right)."""
    if isinstance(padding, str):
        if padding == "valid":
            return [0, 0, 0, 0]
        if padding != "same":
            raise ValueError(f'padding must be numbers, "same" or "valid", got {padding!r}')
        if stride != [1, 1]:
            raise ValueError(f'padding="same" needs stride 1, got {tuple(stride)}')
        return [side for sides in same_padding(kernel, dilation) for side in sides]
    if not isinstance(padding, int) and len(padding) == 4:
        top, bottom = _pair(padding[:2], "padding", 0)
        return [top, bottom, *_pair(padding[2:], "padding", 0)]
    height, width = _pair(padding, "padding", 0)
    return [height, height, width, width]

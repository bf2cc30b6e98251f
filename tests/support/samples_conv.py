"""Inputs of the operators of convolution."""

from dataclasses import dataclass

import torch
from support.patterns import Pattern, Sample, mask, plain, strided
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """A convolution of `channels` to `out` channels over images of `size`; padding is (top, bottom, left, right)."""

    channels: int
    out: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    batch: int = 3
    size: tuple[int, int] = (6, 5)
    density: float = 0.4
    slack: int = 0

    @property
    def window(self) -> tuple:
        return list(self.kernel), list(self.stride), list(self.padding), list(self.dilation), self.groups

    @property
    def pattern(self) -> Pattern:
        cols = self.channels // self.groups * self.kernel[0] * self.kernel[1]
        return Pattern(mask(self.out, cols, self.density), self.slack)


SHAPES = {
    "plain": Shape(3, 5, slack=3),
    "strided": Shape(4, 3, stride=(2, 1), padding=(0, 1, 2, 0), batch=17),
    "dilated": Shape(2, 4, (2, 3), dilation=(2, 1), size=(9, 8)),
    "groups": Shape(4, 6, groups=2, stride=(2, 2)),
    "depthwise": Shape(3, 3, (1, 5), padding=(0, 0, 2, 2), groups=3, batch=1),
    "pointwise": Shape(7, 9, (1, 1), padding=(0, 0, 0, 0), size=(4, 17), density=0.6),
    "empty": Shape(2, 3, density=0.0),
    "empty with slack": Shape(2, 3, density=0.0, slack=4),
    "full": Shape(3, 2, density=2.0),
    "one pixel": Shape(1, 1, size=(1, 1)),
    "zero batch": Shape(3, 5, batch=0),
}

# Beyond the edges of tiles of 64, with few and with many positions.
TILED = {
    "tiles": Shape(20, 70, padding=(2, 1, 0, 1), batch=1, size=(7, 6), slack=3),
    "tiles of groups": Shape(16, 48, stride=(1, 2), groups=2, batch=7, size=(12, 11)),
}


def conv2d(dtype: torch.dtype) -> list[Sample]:
    """input, values, index, bias, kernel_size, stride, padding, dilation, groups"""
    samples = []
    for i, (name, shape) in enumerate((SHAPES | TILED).items()):
        make, p = strided if name in ("strided", "groups") else plain, shape.pattern
        input = make(shape.batch, shape.channels, *shape.size, dtype=dtype)
        if name in TILED:
            input = input.to(memory_format=torch.channels_last)
        bias = plain(shape.out, dtype=dtype) if i % 3 else None
        for bits in (False, True) if name in SHAPES else (True,):
            index = p.index(bits)
            if i % 2:  # without the transposed index
                index[2].zero_()
            kind = f"{name}{', bits' * bits}"
            samples.append(Sample(kind, (input, p.values(dtype), index, bias, *shape.window), p))
    return samples


def conv2d_backward(dtype: torch.dtype) -> list[Sample]:
    """grad_output, input, values, index, need_input, need_values, need_bias, kernel_size, ..., groups"""
    samples = []
    for i, sample in enumerate(conv2d(dtype)):
        input, values, index, _, *window = sample.args
        make = strided if sample.name.startswith(("strided", "pointwise")) else plain
        weight = sample.pattern.dense(values).double()
        grad_output = make(*convolve(input.double(), weight, None, *window).shape, dtype=dtype)
        needs = (True, True, True) if i % 3 else (bool(i % 2), not i % 2, bool(i % 2))
        samples.append(Sample(sample.name, (grad_output, input, values, index, *needs, *window), sample.pattern))
    return samples


def sampled_conv2d_gradient(dtype: torch.dtype) -> list[Sample]:
    """grad_output, input, coordinates, kernel_size, stride, padding, dilation, groups"""
    samples = []
    many = Shape(2, 3, batch=18)  # whose positions are shared out
    for name, shape in {**SHAPES, **TILED, "many positions": many}.items():
        make, p = strided if name in ("strided", "groups") else plain, shape.pattern
        input = make(shape.batch, shape.channels, *shape.size, dtype=dtype)
        size = convolve(input.double(), torch.zeros(p.mask.shape).double(), None, *shape.window).shape
        pair = [make(*size, dtype=dtype), input]
        if name in TILED:
            pair = [tensor.to(memory_format=torch.channels_last) for tensor in pair]
        # In any order, repeated, or ascending.
        some = torch.randint(p.mask.numel(), (19,)) if name in ("plain", "groups") else p.coordinates
        samples.append(Sample(name, (*pair, some, *shape.window), p))
    return samples


def convolve(input: Tensor, matrix: Tensor, bias: Tensor | None, *window) -> Tensor:
    """The convolution with the rows of a dense matrix as kernels."""
    kernel, stride, padding, dilation, groups = window
    top, bottom, left, right = padding
    padded = torch.nn.functional.pad(input, (left, right, top, bottom))
    kernels = matrix.reshape(matrix.shape[0], input.shape[1] // groups, *kernel)
    return torch.nn.functional.conv2d(padded, kernels, bias, stride, 0, dilation, groups)

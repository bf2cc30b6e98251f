"""Products that PyTorch computes itself, with a dense weight: what their weight gets in a backward pass.

They stand where a `ConvGeometry` stands for 2-D convolutions: `straight_through` and probes ask them. Weights are
`[out, in / groups, *kernel]`, those of transposed convolutions too.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from .shapes import accumulate_dtype

PART = 2**18  # elements at a time


class Convolution(NamedTuple):
    """A convolution of any number of dimensions, or a transposed one, as `torch.convolution` takes it."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int

    @property
    def dims(self) -> int:
        return len(self.stride)

    def least_output(self, size: Sequence[int], kernel: Sequence[int]) -> list[int]:
        """Returns the size of a transposed convolution's output, without output padding, for an input of `size`."""
        sizes = zip(size, kernel, self.stride, self.padding, self.dilation, strict=True)
        return [(n - 1) * stride - 2 * padding + dilation * (k - 1) + 1 for n, k, stride, padding, dilation in sizes]

    def weight_gradient(self, delta: Tensor, input: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Computes dL/dW of the weight of this shape for an input with or without the batch. The output padding is that
        which the output's gradient shows: a call may ask for another one."""
        if input.dim() == self.dims + 1:
            input, delta = input.unsqueeze(0), delta.unsqueeze(0)
        weight = input.new_empty(1).expand(shape)  # of which only the shape matters
        weight = weight.transpose(0, 1) if self.transposed else weight
        more = self.output_padding
        if self.transposed:
            least = self.least_output(input.shape[2:], shape[2:])
            more = [n - low for n, low in zip(delta.shape[2:], least, strict=True)]
        options = (self.stride, self.padding, self.dilation, self.transposed, more, self.groups)
        mask = [False, True, False]
        gradient = torch.ops.aten.convolution_backward(delta, input, weight, None, *options, mask)[1]
        return gradient.transpose(0, 1) if self.transposed else gradient

    def moment(self, delta: Tensor, input: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Computes the gradient and the sum of the squares of the samples' shares of it, in fp32 or wider; as many
        products as samples."""
        return moment_by_samples(self, delta, input, shape)


class Lookup(NamedTuple):
    """An embedding as `torch.nn.functional.embedding` takes it: the product of its weight `[entries, width]` with
    one-hot vectors."""

    padding_idx: int
    scale_grad_by_freq: bool

    def weight_gradient(self, delta: Tensor, input: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Computes dL/dW of the weight of this shape for the indices `input`."""
        options = (shape[0], self.padding_idx, self.scale_grad_by_freq)
        return torch.ops.aten.embedding_dense_backward(delta.contiguous(), input, *options)

    def moment(self, delta: Tensor, input: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Does what `Convolution.moment` does."""
        return moment_by_samples(self, delta, input, shape)


def moment_by_samples(
    product: Convolution | Lookup, delta: Tensor, input: Tensor, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    wide = accumulate_dtype(delta.dtype)
    gradient, moment = (torch.zeros(shape, dtype=wide, device=delta.device) for _ in range(2))
    for own, sample in zip(delta.to(wide).split(1), input.split(1), strict=True):
        sample = sample.to(wide) if sample.is_floating_point() else sample
        share = product.weight_gradient(own, sample, shape)
        gradient += share
        moment += share.square()
    return gradient, moment


def absolute_sums(tensor: Tensor) -> Tensor:
    """Returns the sums of absolute values for each feature of `[batch, features, *size]`, in fp32 or wider; no copy of
    a large tensor is made."""
    others, wide = [0, *range(2, tensor.dim())], accumulate_dtype(tensor.dtype)
    rows = max(1, PART // max(1, prod(tensor.shape[1:])))
    return torch.stack([part.abs().sum(others, dtype=wide) for part in tensor.split(rows)]).sum(0)

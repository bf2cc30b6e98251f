"""1-D convolutions, which are 2-D convolutions of images of height 1."""

from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from .conv import Conv2dProduct
from .masked import MaskedLayer
from .sparse import SparseLayer

One = int | tuple[int]


class Conv1dProduct(Conv2dProduct):
    """The constructor and the product of 1-D convolutions with a pattern."""

    DENSE = nn.Conv1d
    DIMS = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: One,
        stride: One = 1,
        padding: One | str = 0,
        dilation: One = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        kernel, strides, dilations = (_of_height_1(value, 1) for value in (kernel_size, stride, dilation))
        sides = padding if isinstance(padding, str) else _of_height_1(padding, 0)
        pairs = (kernel, strides, sides, dilations)
        super().__init__(in_channels, out_channels, *pairs, groups, bias, padding_mode, device, dtype, **options)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.unsqueeze(-2)).squeeze(-2)

    def workload_of(self, input: Tensor) -> tuple[int, int | None] | None:
        sizes = super().workload_of(input)
        return sizes and (sizes[0], isqrt(input.shape[-1]))  # an image of as many positions

    def dense_product(self, input: Tensor, weight: Tensor) -> Tensor:
        padding: Any = self.padding if self._border is None else 0
        options: Any = (self.stride, padding, self.dilation, self.groups)
        return nn.functional.conv1d(input.squeeze(-2), weight, self.bias, *options).unsqueeze(-2)


def _of_height_1(value: One, height: int) -> tuple[int, int]:
    (width,) = (value,) if isinstance(value, int) else value
    return height, width


class SparseConv1d(Conv1dProduct, SparseLayer):
    """1-D convolution with a sparse weight of which only the nonzeros exist.

    The constructor is that of `nn.Conv1d` plus exactly one of `sparsity` (a random pattern, G(n, M)) and `topology`
    (of the weight's shape `[out, in / groups, kernel]`). It computes as a `SparseConv2d` of height 1 does, by the same
    kernels, which are tuned for images.

    Attributes:
        values: Parameter `[capacity]`, the used positions first, in row-major order; the only weight Parameter.
        bias: Parameter `[out_channels]` or None.
        kernel, reason: the kernel in use ("csr", "bits", "dense" or "masked") and why.

    Shapes: input `[batch, in_channels, length]` or without the batch, output alike. `state_dict` is that of a
    `SparseConv2d`.

    Raises:
        ValueError: not exactly one of `sparsity` and `topology`, or one that does not fit; an unknown `backend`; a
            geometry that `nn.Conv1d` does not take.

    Examples:
        >>> layer = sk.SparseConv1d(16, 32, 3, padding=1, sparsity=0.9)
        >>> layer(torch.randn(8, 16, 100)).shape, layer.values.shape
        (torch.Size([8, 32, 100]), torch.Size([154]))
    """


class MaskedConv1d(Conv1dProduct, MaskedLayer):
    """1-D convolution with a dense master weight and a sparse mask, whose zeros are not multiplied.

    The constructor is that of `nn.Conv1d` plus exactly one of `sparsity` and `topology`; attributes, files and errors
    are those of a `MaskedConv2d`.

    Shapes: input `[batch, in_channels, length]` or without the batch, output alike.
    """

    SPARSE = SparseConv1d

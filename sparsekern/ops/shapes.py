"""Shapes, memory formats and dtypes of what the operators return."""

from collections.abc import Sequence

import torch
from torch import Tensor


def image_format(input: Tensor) -> torch.memory_format:
    """The memory format of images `[batch, channels, height, width]`."""
    last = not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def empty_image(input: Tensor, size: Sequence[int]) -> Tensor:
    """An uninitialised tensor of `size` in the dtype and the memory format of `input`."""
    return torch.empty(size, dtype=input.dtype, device=input.device, memory_format=image_format(input))


def output_size(
    size: Sequence[int], kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[int, int]:
    """Height and width of what a convolution makes of an input of `size` (height, width)."""
    height, width = (
        (size[i] + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel_size[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    )
    return height, width


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over `dtype` are kept."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype

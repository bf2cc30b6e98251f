"""Shapes, memory formats and dtypes of what the operators return."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def flat(tensor: Tensor) -> Tensor:
    """Returns `[*, features]` as `[batch, features]`, of which either may be 0."""
    return tensor.reshape(prod(tensor.shape[:-1]), tensor.shape[-1])


def image_format(input: Tensor) -> torch.memory_format:
    """Returns the memory format of images `[batch, channels, height, width]`."""
    last = not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def empty_image(input: Tensor, size: Sequence[int]) -> Tensor:
    """Returns an uninitialised tensor of `size` in the dtype and the memory format of `input`."""
    return torch.empty(size, dtype=input.dtype, device=input.device, memory_format=image_format(input))


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which sums over `dtype` are kept."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype

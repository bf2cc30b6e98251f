"""The gradient of a convolution's weight and the second moment of what the images contribute to it, in one pass."""

from typing import Any

import torch
from torch import Tensor

from ..conv_geometry import ConvGeometry
from .moments import moments


def conv2d_gradient_moment(grad_output: Tensor, input: Tensor, *geometry: Any) -> tuple[Tensor, Tensor]:
    """`sum_n a_n` and `sum_n a_n^2`, a_n the gradient that image n alone gives the weight: fp32."""
    w = ConvGeometry(*geometry)
    channels = input.shape[1] // w.groups
    # Loads of 16 bytes along the channels, or, of few channels, along the pixels.
    layout = torch.contiguous_format if channels % 8 else torch.channels_last
    delta, h = (t.contiguous(memory_format=layout).permute(0, 2, 3, 1) for t in (grad_output, input))
    sums = moments(delta.flatten(1, 2), h, w, grad_output.shape[3])
    gradient, moment = (s.view(grad_output.shape[1], channels, *w.kernel_size) for s in sums)
    return gradient, moment

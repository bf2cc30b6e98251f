"""Computes which channels of layers and batch norms are constant."""

from typing import Any

import torch
from torch import Tensor, nn

from ...private_torch import BatchNorm
from ..layer import PatternLayer


def weight_of(layer: nn.Module) -> Tensor:
    """The dense weight of a layer."""
    return layer.dense_weight() if isinstance(layer, PatternLayer) else layer.weight  # type: ignore[return-value]


def layer_constants(layer: Any, value: Tensor) -> Tensor:
    """Constant outputs of a layer whose input channels are `value`; float64, NaN for not constant.

    An output channel is constant if each of its weights is zero or meets a constant channel; zero, where the layer
    reads zeros around its input.
    """
    groups = getattr(layer, "groups", 1)
    weight = weight_of(layer).detach()
    weight = weight.view(groups, weight.shape[0] // groups, weight.shape[1], -1)
    value = value.to(weight.device).view(groups, -1)
    varies = ~value.isfinite()
    if zero_bordered(layer):
        varies |= value != 0
    constant = ~((weight != 0).any(3) & varies[:, None]).any(2)
    value = torch.where(varies, 0, value)
    output = torch.zeros(len(constant.flatten()), dtype=torch.float64, device=weight.device)
    if value.any():
        output += torch.einsum("goi,gi->go", weight.sum(3).double(), value).flatten()
    if layer.bias is not None:
        output += layer.bias.detach()
    return torch.where(constant.flatten(), output, torch.nan).cpu()


def by_channel(layer: Any) -> bool:
    """Whether it is a depthwise convolution, with one or several outputs per input channel."""
    return getattr(layer, "groups", 1) > 1 and layer.groups == layer.in_channels


def zero_bordered(layer: Any) -> bool:
    """Whether the layer reads zeros around its input, beside which a constant channel is not constant."""
    padding = getattr(layer, "padding", 0)
    if getattr(layer, "padding_mode", "zeros") != "zeros" or padding == "valid":
        return False
    return padding == "same" or bool(torch.as_tensor(padding).any())


def norm_constants(norm: BatchNorm, value: Tensor) -> Tensor:
    """Constant outputs of a batch norm in evaluation mode, float64 `[channels]`; NaN for not constant."""
    if norm.running_mean is None or norm.running_var is None:
        output = torch.where(value.isfinite(), 0.0, torch.nan)  # a constant is its own mean
    else:
        mean, variance = norm.running_mean.cpu().double(), norm.running_var.cpu().double()
        output = (value - mean) / (variance + norm.eps).sqrt()
    if norm.weight is None:
        return output
    weight, bias = norm.weight.detach().cpu().double(), norm.bias.detach().cpu().double()
    return torch.where(weight == 0, bias, output * weight + bias)

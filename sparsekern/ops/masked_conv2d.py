"""Convolutions with a dense weight under a bitmask: `masked_conv2d`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .conv_geometry import SCHEMA, ConvGeometry, Pair
from .library import define
from .masked_linear import mask_of, masked_backward_fake
from .shapes import accumulate_dtype, empty_image, image_format
from .sparse_conv2d import convolve


def masked_conv2d(
    input: Tensor,
    weight: Tensor,
    index: Sequence[Tensor],
    bias: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
    active: bool = False,
) -> Tensor:
    """Computes `conv2d(input, W * mask, bias)` with a dense W and the mask as bits; on a GPU without making W * mask.

    Args:
        weight: `[out, channels / groups, kernel height, kernel width]`, dtype of `input`.
        index: `Topology.index` with the view "bitmask".
        active: whether the gradient of `weight` is zero off the mask; otherwise it is that of the masked weight, at
            every entry (straight-through).

    The other arguments, the result and the errors are those of `sparse_conv2d`; an index without bits is one, too.
    """
    if weight.dim() != 4:
        raise ValueError(f"weight must be [out, channels, kernel height, kernel width], got {tuple(weight.shape)}")
    geometry = ConvGeometry.of(weight.shape[2:], stride, padding, dilation, groups)
    return convolve(masked, input, weight, index, bias, geometry, active)


# ---- references


def masked_conv2d_reference(
    input: Tensor, weight: Tensor, index: list[Tensor], bias: Tensor | None, *geometry_and_active: Any
) -> Tensor:
    """`conv2d(input, W * mask, bias)` in the memory format of the input, sums kept in fp32 or wider."""
    wide, w = accumulate_dtype(input.dtype), ConvGeometry(*geometry_and_active[:-1])
    masked = torch.where(mask_of(index, weight.shape), weight, 0).to(wide)
    output = w.convolve(w.padded(input.to(wide)), masked, None if bias is None else bias.to(wide)).to(input.dtype)
    return output.contiguous(memory_format=image_format(input))


def masked_conv2d_backward_reference(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    *geometry_and_active: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `masked_conv2d`, as those of `masked_linear`, in the memory formats of the input and the weight."""
    *geometry, active = geometry_and_active
    wide, w, mask = accumulate_dtype(input.dtype), ConvGeometry(*geometry), mask_of(index, weight.shape)
    delta, h, masked = grad_output.to(wide), w.padded(input.to(wide)), torch.where(mask, weight, 0).to(wide)
    grad_h, dense, _ = w.backward(delta, h, masked, [need_input, need_weight, False])
    grad_input, grad_weight = input.new_empty(0), weight.new_empty(0)
    if need_input:
        grad_input = w.cropped(grad_h).to(input.dtype).contiguous(memory_format=image_format(input))
    if need_weight:
        grad_weight = torch.where(mask, dense, 0) if active else dense
        grad_weight = grad_weight.to(weight.dtype).contiguous(memory_format=image_format(weight))
    return grad_input, grad_weight, delta.sum((0, 2, 3)).to(weight.dtype) if need_bias else weight.new_empty(0)


def masked_conv2d_fake(
    input: Tensor, weight: Tensor, index: list[Tensor], bias: Tensor | None, *geometry_and_active: Any
) -> Tensor:
    geometry = ConvGeometry(*geometry_and_active[:-1])
    return empty_image(input, (input.shape[0], weight.shape[0], *geometry.output_size(input.shape[2:])))


define(
    f"masked_conv2d(Tensor input, Tensor weight, Tensor[] index, Tensor? bias, {SCHEMA}, bool active) -> Tensor",
    reference=masked_conv2d_reference,
    fake=masked_conv2d_fake,
)
define(
    "masked_conv2d_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor[] index, bool need_input, "
    f"bool need_weight, bool need_bias, {SCHEMA}, bool active) -> (Tensor, Tensor, Tensor)",
    reference=masked_conv2d_backward_reference,
    fake=masked_backward_fake,
)

masked = torch.ops.sparsekern.masked_conv2d.default

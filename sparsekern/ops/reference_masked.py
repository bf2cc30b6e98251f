"""Products with a dense weight under a bit map, in plain PyTorch."""

import torch
from torch import Tensor

from .reference import _flat
from .reference_conv import Window
from .schema import TILE, library
from .shapes import accumulate_dtype, image_format


def mask_of(bits: Tensor, shape: torch.Size) -> Tensor:
    """Bool tensor of the weight's shape."""
    lanes = torch.arange(TILE, device=bits.device)
    return ((bits[:, :, None] >> lanes) & 1).bool().flatten(1)[:, : shape[1:].numel()].reshape(shape)


def masked_linear(input: Tensor, weight: Tensor, index: list[Tensor], bias: Tensor | None, active: bool) -> Tensor:
    """`input @ (W * mask).T + bias`, sums kept in fp32 or wider."""
    wide = accumulate_dtype(input.dtype)
    masked = torch.where(mask_of(index[7], weight.shape), weight, 0).to(wide)
    bias = None if bias is None else bias.to(wide)
    return torch.nn.functional.linear(input.to(wide), masked, bias).to(input.dtype)


def masked_linear_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    active: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `masked_linear`; what is not needed is returned with no elements. That of the weight is straight
    through, what it is of the masked weight, or with `active` zero off the mask."""
    wide = accumulate_dtype(input.dtype)
    mask = mask_of(index[7], weight.shape)
    delta, h = _flat(grad_output).to(wide), _flat(input).to(wide)
    grad_input, grad_weight, grad_bias = input.new_empty(0), weight.new_empty(0), weight.new_empty(0)
    if need_input:
        grad_input = (delta @ torch.where(mask, weight, 0).to(wide)).to(input.dtype).reshape(input.shape)
    if need_weight:
        dense = (delta.t() @ h).to(weight.dtype)
        grad_weight = torch.where(mask, dense, 0) if active else dense
    if need_bias:
        grad_bias = delta.sum(0).to(weight.dtype)
    return grad_input, grad_weight, grad_bias


def masked_conv2d(
    input: Tensor, weight: Tensor, index: list[Tensor], bias: Tensor | None, *window_and_active
) -> Tensor:
    """`conv2d(input, W * mask, bias)` in the memory format of the input, sums kept in fp32 or wider."""
    wide, w = accumulate_dtype(input.dtype), Window(*window_and_active[:-1])
    masked = torch.where(mask_of(index[7], weight.shape), weight, 0).to(wide)
    output = w.convolve(w.padded(input.to(wide)), masked, None if bias is None else bias.to(wide)).to(input.dtype)
    return output.contiguous(memory_format=image_format(input))


def masked_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    *window_and_active,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `masked_conv2d`, as those of `masked_linear`, in the memory formats of the input and the weight."""
    *window, active = window_and_active
    wide, w, mask = accumulate_dtype(input.dtype), Window(*window), mask_of(index[7], weight.shape)
    delta, h, masked = grad_output.to(wide), w.padded(input.to(wide)), torch.where(mask, weight, 0).to(wide)
    grad_h, dense, _ = w.backward(delta, h, masked, [need_input, need_weight, False])
    grad_input, grad_weight = input.new_empty(0), weight.new_empty(0)
    if need_input:
        grad_input = w.cropped(grad_h).to(input.dtype).contiguous(memory_format=image_format(input))
    if need_weight:
        grad_weight = torch.where(mask, dense, 0) if active else dense
        grad_weight = grad_weight.to(weight.dtype).contiguous(memory_format=image_format(weight))
    return grad_input, grad_weight, delta.sum((0, 2, 3)).to(weight.dtype) if need_bias else weight.new_empty(0)


for _name, _function in {
    "masked_linear": masked_linear,
    "masked_linear_backward": masked_linear_backward,
    "masked_conv2d": masked_conv2d,
    "masked_conv2d_backward": masked_conv2d_backward,
}.items():
    library.impl(_name, _function, "CompositeExplicitAutograd")

"""Linear layers with a dense weight under a bitmask: `masked_linear`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .bit_index import bit_mask
from .index import Index
from .library import define
from .operands import autocast, check_linear
from .shapes import accumulate_dtype, empty_image, flat


def masked_linear(
    input: Tensor, weight: Tensor, index: Sequence[Tensor], bias: Tensor | None = None, *, active: bool = False
) -> Tensor:
    """Computes `input @ (W * mask).T + bias` with a dense W and the mask as bits; on a GPU without making W * mask.

    Differentiable in `input`, `weight` and `bias`. Autocast is that of `sparse_linear`.

    Args:
        input: `[*, cols]`.
        weight: `[rows, cols]`, dtype of `input`.
        index: `Topology.index` with the view "bitmask".
        bias: `[rows]`, dtype of `input`.
        active: whether the gradient of `weight` is zero off the mask; otherwise it is that of the masked weight, at
            every entry (straight-through).

    Returns:
        `[*, rows]`, dtype of `input`; sums are kept in fp32 or wider.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other; an index without bits.
    """
    index = Index.of(index)
    input, weight, bias = autocast(input, weight, bias)
    check_linear(input, weight, index, bias, masked=True)
    return torch.ops.sparsekern.masked_linear.default(input, weight, list(index), bias, active)


def mask_of(index: Sequence[Tensor], shape: torch.Size) -> Tensor:
    """Returns the bitmask of an index as a bool tensor of the weight's shape."""
    return bit_mask(Index.of(index).bits, shape[1:].numel()).reshape(shape)


# ---- references


def masked_linear_reference(
    input: Tensor, weight: Tensor, index: list[Tensor], bias: Tensor | None, active: bool
) -> Tensor:
    """`input @ (W * mask).T + bias`, sums kept in fp32 or wider."""
    wide = accumulate_dtype(input.dtype)
    masked = torch.where(mask_of(index, weight.shape), weight, 0).to(wide)
    bias = None if bias is None else bias.to(wide)
    return torch.nn.functional.linear(input.to(wide), masked, bias).to(input.dtype)


def masked_linear_backward_reference(
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
    delta, h = flat(grad_output).to(wide), flat(input).to(wide)
    grad_input, grad_weight, grad_bias = input.new_empty(0), weight.new_empty(0), weight.new_empty(0)
    if need_input:
        masked = torch.where(mask_of(index, weight.shape), weight, 0).to(wide)
        grad_input = (delta @ masked).to(input.dtype).reshape(input.shape)
    if need_weight:
        dense = (delta.t() @ h).to(weight.dtype)
        grad_weight = torch.where(mask_of(index, weight.shape), dense, 0) if active else dense
    if need_bias:
        grad_bias = delta.sum(0).to(weight.dtype)
    return grad_input, grad_weight, grad_bias


# ---- fakes


def masked_linear_fake(input: Tensor, weight: Tensor, index: list[Tensor], bias: Tensor | None, active: bool) -> Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


def masked_backward_fake(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    *geometry_and_active: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        empty_image(input, input.shape) if need_input else input.new_empty(0),
        empty_image(weight, weight.shape) if need_weight else weight.new_empty(0),
        weight.new_empty(weight.shape[:1] if need_bias else (0,)),
    )


define(
    "masked_linear(Tensor input, Tensor weight, Tensor[] index, Tensor? bias, bool active) -> Tensor",
    reference=masked_linear_reference,
    fake=masked_linear_fake,
)
define(
    "masked_linear_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor[] index, bool need_input, "
    "bool need_weight, bool need_bias, bool active) -> (Tensor, Tensor, Tensor)",
    reference=masked_linear_backward_reference,
    fake=masked_backward_fake,
)

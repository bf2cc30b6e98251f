"""The weight gradient of a linear layer with its per-sample second moment: `gradient_moment`."""

from math import prod

import torch
from torch import Tensor

from .library import define
from .operands import check_linear_gradient
from .shapes import accumulate_dtype


def gradient_moment(grad_output: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the weight gradient of a linear layer and its per-sample second moment, in one pass: `sum_n a_n` and
    `sum_n a_n^2`, where `a_n = sum_p grad_output[n, p]^T input[n, p]` is what sample n contributes. Positions p (the
    middle dimensions) are summed before squaring. (Siems et al., Dynamic Pruning of a Neural Network via Gradient
    Signal-to-Noise Ratio, section 3.)

    Args:
        grad_output: `[B, *, rows]`, any strides.
        input: `[B, *, cols]`, with the dtype and the leading dimensions of `grad_output`.

    Returns:
        Gradient and moment `[rows, cols]`, both in the dtype of the sums: fp32, or fp64 if the arguments are. No share
        of a sample is stored.

    Raises:
        ValueError: shapes or dtypes that do not fit, no batch dimension.
    """
    check_linear_gradient(grad_output, input)
    if input.dim() < 2:
        raise ValueError(f"input must be [B, *, cols], with a batch dimension, got shape {tuple(input.shape)}")
    return torch.ops.sparsekern.gradient_moment(grad_output, input)


def gradient_moment_reference(grad_output: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    """`sum_n a_n` and `sum_n a_n^2`, `a_n = sum_p grad_output[n, p]^T input[n, p]`: fp32 or wider."""
    wide, batch, rows, cols = accumulate_dtype(input.dtype), input.shape[0], grad_output.shape[-1], input.shape[-1]
    positions = prod(input.shape[1:-1])
    if positions == 1:  # no sum to take before squaring
        delta, h = grad_output.reshape(batch, rows).to(wide), input.reshape(batch, cols).to(wide)
        return delta.t() @ h, delta.square().t() @ h.square()
    gradient, moment = (input.new_zeros(rows, cols, dtype=wide) for _ in range(2))
    for delta, h in zip(grad_output, input, strict=True):
        share = delta.reshape(positions, rows).to(wide).t() @ h.reshape(positions, cols).to(wide)
        gradient += share
        moment.addcmul_(share, share)
    return gradient, moment


def gradient_moment_fake(grad_output: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    gradient = input.new_empty((grad_output.shape[-1], input.shape[-1]), dtype=accumulate_dtype(input.dtype))
    return gradient, torch.empty_like(gradient)


define(
    "gradient_moment(Tensor grad_output, Tensor input) -> (Tensor, Tensor)",
    reference=gradient_moment_reference,
    fake=gradient_moment_fake,
)

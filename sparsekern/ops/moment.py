"""The gradient of a weight together with the second moment of what the samples of a batch contribute to it, and the
updates of what methods keep for every weight."""

import torch
from torch import Tensor

from .conv import Pair, Window, check_gradient, window
from .csr import check_vectors
from .schema import SNR_CAP
from .selection import check_features
from .shapes import accumulate_dtype

__all__ = ["SNR_CAP", "conv2d_gradient_moment", "gradient_moment", "moment_of", "score_step", "snr_update"]

_ops = torch.ops.sparsekern
WIDE = (torch.float32, torch.float64)


def gradient_moment(grad_output: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    """The weight gradient of a linear layer and its per-sample second moment, in one pass: `sum_n a_n` and
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
    check_features(grad_output, input)
    if input.dim() < 2:
        raise ValueError(f"input must be [B, *, cols], with a batch dimension, got shape {tuple(input.shape)}")
    return _ops.gradient_moment(_kernel_dtype(grad_output), _kernel_dtype(input))


def conv2d_gradient_moment(
    grad_output: Tensor,
    input: Tensor,
    *,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """The weight gradient of a 2-D convolution and its per-sample second moment, in one pass: `sum_n a_n` and
    `sum_n a_n^2`, where a_n is the gradient that image n alone gives the weight.

    Args:
        grad_output: `[B, out, out height, out width]`, any strides.
        input: `[B, channels, height, width]`, dtype of `grad_output`, any strides.
        kernel_size, stride, padding, dilation, groups: as in `sparse_conv2d`.

    Returns:
        Gradient and moment `[out, channels / groups, kernel height, kernel width]`, both in the dtype of the sums:
        fp32, or fp64 if the arguments are. No share of an image is stored.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    geometry = window(kernel_size, stride, padding, dilation, groups)
    check_gradient(grad_output, input, geometry)
    return _ops.conv2d_gradient_moment(_kernel_dtype(grad_output), _kernel_dtype(input), *geometry)


def moment_of(grad_output: Tensor, input: Tensor, window: Window | None) -> tuple[Tensor, Tensor]:
    """Gradient and moment of the weight of a linear layer (no window) or of a convolution."""
    if window is None:
        return gradient_moment(grad_output, input)
    kernel, stride, padding, dilation, groups = window
    return conv2d_gradient_moment(
        grad_output, input, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def snr_update(ratio: Tensor, gradient: Tensor, moment: Tensor, batch: int, decay: float, first: bool) -> None:
    """Moves the running signal-to-noise ratio of every weight, in place (Siems et al., section 3): with G = `gradient`
    and S = `moment` of B = `batch` samples

        snr = G^2 (B - 1) / max(B S - G^2, 0)        ratio <- snr if first else decay ratio + (1 - decay) snr

    where snr = 0 if G = 0, and at most `SNR_CAP` = 1e6, which it is where all samples agree. The scale of the loss
    cancels, down to shares whose squares underflow (1e-19 in fp32): where S is below the smallest normal number, snr is
    0. NaN stays NaN.

    Args:
        ratio: fp32 or fp64, contiguous, of the weight's shape; not read if `first`.
        gradient: any floating-point dtype, the same shape.
        moment: dtype of `ratio`, the same shape.
        batch: how many samples, 2 or more.
        decay: in [0, 1].

    Raises:
        ValueError: fewer than two samples, which have no variance; arguments that do not fit.
    """
    if batch < 2:
        raise ValueError(f"a signal-to-noise ratio needs the gradients of 2 or more samples, got {batch}")
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    _check_like(ratio, "ratio", gradient=gradient, moment=moment)
    if moment.dtype != ratio.dtype:
        raise ValueError(f"moment must have the dtype {ratio.dtype} of ratio, got {moment.dtype}")
    _ops.snr_update(ratio, gradient.contiguous(), moment.contiguous(), batch, decay, first)


def score_step(
    score: Tensor,
    momentum_buffer: Tensor,
    gradient: Tensor,
    weight: Tensor,
    row_ptr: Tensor,
    col: Tensor,
    *,
    lr: float,
    momentum: float,
) -> None:
    """One SGD step of the score of every weight, then the loss gradient of the pruned ones is dropped; one pass, in
    place (Zhang et al., OptG, eq. 10 and 12; `torch.optim.SGD` without dampening):

        momentum_buffer <- momentum * momentum_buffer + gradient * weight
        score           <- score - lr * momentum_buffer
        gradient        <- 0 off the pattern

    Args:
        score, momentum_buffer: fp32 or fp64, contiguous, of the weight's shape; the buffer starts as zeros.
        gradient: straight-through gradient at every entry, any strides.
        weight: dense `[rows, ...]`, dtype of `gradient`.
        row_ptr, col: the CSR pattern of the active weights, of the weight viewed `[rows, cols]`.

    Raises:
        ValueError: arguments that do not fit, pointers or columns out of range; a GPU takes these for granted.
    """
    _check_like(score, "score", momentum_buffer=momentum_buffer, gradient=gradient, weight=weight)
    if momentum_buffer.dtype != score.dtype or not momentum_buffer.is_contiguous():
        raise ValueError(f"momentum_buffer must be contiguous with the dtype {score.dtype} of score")
    if weight.dtype != gradient.dtype:
        raise ValueError(f"weight must have the dtype {gradient.dtype} of gradient, got {weight.dtype}")
    check_vectors(row_ptr, col)
    if weight.dim() < 2 or row_ptr.shape != (weight.shape[0] + 1,):
        raise ValueError(f"row_ptr must have {len(weight) + 1 if weight.dim() else 2} elements, got {row_ptr.numel()}")
    dense = gradient.contiguous()
    _ops.score_step(score, momentum_buffer, dense, weight.contiguous(), row_ptr, col, lr, momentum)
    if dense is not gradient:
        gradient.copy_(dense)


def _check_like(target: Tensor, name: str, **others: Tensor) -> None:
    if target.dtype not in WIDE or not target.is_contiguous():
        raise ValueError(f"{name} must be a contiguous tensor of float32 or float64, got {target.dtype}")
    for other, tensor in others.items():
        if tensor.shape != target.shape or not tensor.is_floating_point():
            raise ValueError(
                f"{other} must be floating-point {tuple(target.shape)}, got {tensor.dtype} {tuple(tensor.shape)}"
            )


def _kernel_dtype(tensor: Tensor) -> Tensor:
    """The kernels of the CPU have no fp16."""
    narrow = tensor.dtype == torch.float16 and tensor.device.type == "cpu"
    return tensor.to(accumulate_dtype(tensor.dtype)) if narrow else tensor

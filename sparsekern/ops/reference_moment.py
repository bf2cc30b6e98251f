"""The per-sample second moment of a weight's gradient, and what is computed from it, in plain PyTorch."""

from math import prod

import torch
from torch import Tensor

from .csr import check_host
from .reference import _rows
from .reference_conv import Window
from .schema import SNR_CAP, library
from .shapes import accumulate_dtype


def gradient_moment(grad_output: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
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


def conv2d_gradient_moment(grad_output: Tensor, input: Tensor, *window) -> tuple[Tensor, Tensor]:
    """`sum_n a_n` and `sum_n a_n^2`, a_n the gradient that image n alone gives the weight: fp32 or wider."""
    wide, w = accumulate_dtype(input.dtype), Window(*window)
    weight = w.weight(input.new_zeros(1, dtype=wide).expand(grad_output.shape[1], w.cols(input)))
    gradient, moment = (torch.zeros(weight.shape, dtype=wide, device=input.device) for _ in range(2))
    for delta, h in zip(grad_output.split(1), input.split(1), strict=True):
        if delta.numel() and h.numel():
            share = w.backward(delta.to(wide), w.padded(h.to(wide)), weight, [False, True, False])[1]
            gradient += share
            moment.addcmul_(share, share)
    return gradient, moment


def snr_update(ratio: Tensor, gradient: Tensor, moment: Tensor, batch: int, decay: float, first: bool) -> None:
    """`ratio <- snr` if `first`, else `decay * ratio + (1 - decay) * snr`; computed in fp64, where no square of fp32
    numbers is rounded."""
    g = gradient.double()
    signal, variance = g.square(), moment.double() * batch
    variance -= signal
    snr = (signal * (batch - 1) / variance).clamp(max=SNR_CAP)
    snr = torch.where(variance <= 0, SNR_CAP, snr)
    snr = torch.where(moment < torch.finfo(moment.dtype).tiny, 0.0, snr)  # squares that were lost, all or some
    ratio.copy_(snr if first else decay * ratio.double() + (1 - decay) * snr)


def score_step(
    score: Tensor,
    momentum_buffer: Tensor,
    gradient: Tensor,
    weight: Tensor,
    row_ptr: Tensor,
    col: Tensor,
    lr: float,
    momentum: float,
) -> None:
    """`momentum_buffer <- momentum * momentum_buffer + gradient * weight`, `score <- score - lr * momentum_buffer`;
    then `gradient` is zero off the pattern."""
    check_host(row_ptr, col, weight[:1].numel())
    wide = score.dtype
    momentum_buffer.mul_(momentum).addcmul_(gradient.to(wide), weight.to(wide))
    score.add_(momentum_buffer, alpha=-lr)
    active = torch.zeros(row_ptr.numel() - 1, weight[:1].numel(), dtype=torch.bool, device=col.device)
    active[_rows(row_ptr), col[: int(row_ptr[-1])].long()] = True
    gradient.masked_fill_(~active.reshape(gradient.shape), 0)


for _function in (gradient_moment, conv2d_gradient_moment, snr_update, score_step):
    library.impl(_function.__name__, _function, "CompositeExplicitAutograd")

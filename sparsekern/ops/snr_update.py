"""The running signal-to-noise ratio of every weight's gradient: `snr_update`."""

import torch
from torch import Tensor

from .library import define
from .operands import check_state

SNR_CAP = 1e6  # the largest signal-to-noise ratio


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
    check_state(ratio, "ratio", gradient=gradient, moment=moment)
    if moment.dtype != ratio.dtype:
        raise ValueError(f"moment must have the dtype {ratio.dtype} of ratio, got {moment.dtype}")
    torch.ops.sparsekern.snr_update(ratio, gradient.contiguous(), moment.contiguous(), batch, decay, first)


def snr_update_reference(
    ratio: Tensor, gradient: Tensor, moment: Tensor, batch: int, decay: float, first: bool
) -> None:
    """`ratio <- snr` if `first`, else `decay * ratio + (1 - decay) * snr`; computed in fp64, where no square of fp32
    numbers is rounded."""
    g = gradient.double()
    signal, variance = g.square(), moment.double() * batch
    variance -= signal
    snr = (signal * (batch - 1) / variance).clamp(max=SNR_CAP)
    snr = torch.where(variance <= 0, SNR_CAP, snr)
    snr = torch.where(moment < torch.finfo(moment.dtype).tiny, 0.0, snr)  # squares that were lost, all or some
    ratio.copy_(snr if first else decay * ratio.double() + (1 - decay) * snr)


define(
    "snr_update(Tensor(a!) ratio, Tensor gradient, Tensor moment, SymInt batch, float decay, bool first) -> ()",
    reference=snr_update_reference,
)

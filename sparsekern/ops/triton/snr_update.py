"""The running signal-to-noise ratio of every weight: one pass, memory traffic."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..snr_update import SNR_CAP
from .launch import Config, launch

CONFIGS = [Config({"BLOCK": 1024}), Config({"BLOCK": 512}), Config({"BLOCK": 2048}, warps=8)]


def snr_update(ratio: Tensor, gradient: Tensor, moment: Tensor, batch: int, decay: float, first: bool) -> None:
    """`ratio <- snr` if `first`, else `decay * ratio + (1 - decay) * snr`. The tensors are contiguous."""
    n = ratio.numel()
    launch(
        _update,
        lambda blocks: (triton.cdiv(n, blocks["BLOCK"]),),
        ratio,
        gradient,
        moment,
        n,
        batch,
        decay,
        1 - decay,
        configs=CONFIGS,
        sizes=(n,),
        FIRST=first,
        CAP=SNR_CAP,
        TINY=torch.finfo(torch.float32).tiny,
    )


@triton.jit(do_not_specialize=["batch"])
def _update(
    ratio,
    gradient,
    moment,
    n,
    batch,
    keep,
    take,
    FIRST: tl.constexpr,
    CAP: tl.constexpr,
    TINY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """12 to 16 bytes a weight in fp32. In fp64, where no product of fp32 numbers is rounded: the variance is a
    difference of two. That arithmetic hides behind the traffic on cards whose fp64 has half the rate of fp32."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = i < n
    g = tl.load(gradient + i, valid, 0).to(tl.float64)
    signal = g * g
    square = tl.load(moment + i, valid, 0).to(tl.float64)
    variance = square * batch - signal
    snr = signal * (batch - 1) / variance
    snr = tl.where((snr > CAP) | (variance <= 0), CAP, snr)
    snr = tl.where(square < TINY, 0.0, snr)  # squares that were lost, all or some
    if not FIRST:
        snr = keep * tl.load(ratio + i, valid, 0).to(tl.float64) + take * snr
    tl.store(ratio + i, snr.to(tl.float32), valid)

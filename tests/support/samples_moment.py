"""Inputs of the operators around the second moment of a gradient, and what they should give."""

import numpy as np
import torch
from support.patterns import Pattern, Sample, mask, patterns, plain, strided
from support.samples_conv import SHAPES, Shape, convolve
from torch import Tensor

LINEAR = {  # leading dimensions, rows, cols
    "plain": ((5,), 13, 70),
    "one sample": ((1,), 6, 65),
    "one position": ((4, 1, 1), 3, 40),
    "sequence": ((3, 7), 9, 33),
    "one sequence": ((1, 20), 5, 17),
    "many sequences": ((9, 5), 20, 33),
    "grid": ((2, 3, 5), 17, 31),
    "no samples": ((0,), 4, 6),
    "no sequences": ((0, 3), 4, 6),
    "no positions": ((3, 0), 4, 6),
    "no rows": ((3, 2), 0, 6),
    "no cols": ((3, 2), 4, 0),
    "long": ((300,), 40, 50),
    "one weight": ((6, 9), 1, 1),
}
CONVS = {
    **SHAPES,
    "stem": Shape(3, 10, (7, 7), (2, 2), (3, 3, 3, 3), size=(19, 23)),
    "many channels": Shape(40, 6, size=(7, 9)),
    "many channels, strided": Shape(17, 5, (3, 2), (2, 1), (1, 0, 0, 1), (1, 2), size=(9, 8)),
    "wide groups": Shape(36, 10, groups=2, size=(5, 5)),
    "one filter": Shape(16, 1, (1, 1), padding=(0, 0, 0, 0), size=(5, 20)),
    "unread border": Shape(16, 4, (1, 1), (3, 3), (0, 0, 0, 0), size=(9, 11)),
}


def gradient_moment(dtype: torch.dtype) -> list[Sample]:
    """grad_output, input"""
    samples = []
    for name, (leading, rows, cols) in LINEAR.items():
        for make in (plain, strided):
            args = (make(*leading, rows, dtype=dtype), make(*leading, cols, dtype=dtype))
            samples.append(Sample(f"{name}, {make.__name__}", args, Pattern(mask(1, 1, 0.0))))
    same = plain(4, 1, 5, dtype=dtype).expand(4, 3, 5)
    return [*samples, Sample("expanded", (plain(4, 3, 6, dtype=dtype), same), Pattern(mask(1, 1, 0.0)))]


def conv2d_gradient_moment(dtype: torch.dtype) -> list[Sample]:
    """grad_output, input, kernel_size, stride, padding, dilation, groups"""
    samples = []
    for i, (name, shape) in enumerate(CONVS.items()):
        cols = shape.channels // shape.groups * shape.kernel[0] * shape.kernel[1]
        size = convolve(torch.zeros(1, shape.channels, *shape.size), torch.zeros(shape.out, cols), None, *shape.window)
        makes = (plain, strided, _channels_last)
        input = makes[i % 3](shape.batch, shape.channels, *shape.size, dtype=dtype)
        delta = makes[i % 2 * 2](shape.batch, *size.shape[1:], dtype=dtype)
        samples.append(Sample(name, (delta, input, *shape.window), Pattern(mask(1, 1, 0.0))))
    return samples


def _channels_last(*shape: int, dtype: torch.dtype) -> Tensor:
    return plain(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def snr_update(dtype: torch.dtype) -> list[Sample]:
    """ratio, gradient, moment, batch, decay, first"""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    samples = []
    for n, batch in ((1, 2), (7, 3), (100, 16), (1000, 5)):
        shares = plain(batch, n, dtype=dtype)
        shares[:, ::3] = shares[:1, ::3]  # no variance
        shares[:, 2::6] = 0
        shares[:, 4::9] *= 1e-21  # their squares underflow in fp32
        gradient, moment = shares.sum(0), shares.to(wide).square().sum(0)
        for first in (False, True):
            ratio = torch.full((n,), torch.nan, dtype=wide) if first else torch.rand(n, dtype=wide)
            args = (ratio, gradient, moment, batch, 0.9, first)
            samples.append(Sample(f"{n} weights, batch {batch}, first {first}", args, Pattern(mask(1, 1, 0.0))))
    return samples


def score_step(dtype: torch.dtype) -> list[Sample]:
    """score, momentum_buffer, gradient, weight, row_ptr, col, lr, momentum"""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return [
        Sample(
            name,
            (
                *(plain(p.rows, p.cols, dtype=wide) for _ in range(2)),
                *(plain(p.rows, p.cols, dtype=dtype) for _ in range(2)),
                *(p.row_ptr, p.col, 0.1, momentum),
            ),
            p,
        )
        for name, p in patterns().items()
        for momentum in (0.0, 0.9)
    ]


def expected_gradient_moment(p: Pattern, grad_output: Tensor, input: Tensor) -> list[Tensor]:
    positions = int(np.prod(input.shape[1:-1]))
    delta, x = (t.double().numpy().reshape(t.shape[0], positions, t.shape[-1]) for t in (grad_output, input))
    parts = np.einsum("npr,npc->nrc", delta, x)
    return [torch.from_numpy(parts.sum(0)), torch.from_numpy((parts**2).sum(0))]


def expected_conv2d_gradient_moment(p: Pattern, grad_output: Tensor, input: Tensor, *window) -> list[Tensor]:
    shape = (grad_output.shape[1], input.shape[1] // window[-1], *window[0])
    sums = [torch.zeros(shape, dtype=torch.float64) for _ in range(2)]
    for delta, x in zip(grad_output.double().split(1), input.double().split(1), strict=True):
        weight = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        output = convolve(x, weight.flatten(1), None, *window)
        (part,) = torch.autograd.grad(output, weight, delta)
        sums = [sums[0] + part, sums[1] + part**2]
    return sums


def expected_snr_update(
    p: Pattern, ratio: Tensor, gradient: Tensor, moment: Tensor, batch: int, decay: float, first: bool
) -> Tensor:
    """Weight by weight, in exact arithmetic where the arguments are fp32."""
    result = []
    tiny = torch.finfo(moment.dtype).tiny
    for r, g, s in zip(ratio.tolist(), gradient.tolist(), moment.tolist(), strict=True):
        variance = batch * s - g * g
        snr = 0.0 if g == 0 or s < tiny else 1e6 if variance <= 0 else min(1e6, g * g * (batch - 1) / variance)
        result.append(snr if first else decay * r + (1 - decay) * snr)
    return torch.tensor(result, dtype=torch.float64)


def expected_score_step(
    p: Pattern, score: Tensor, buffer: Tensor, gradient: Tensor, weight: Tensor, *rest
) -> list[Tensor]:
    lr, momentum = rest[-2:]
    buffer = momentum * buffer.double() + gradient.double() * weight.double()
    return [score.double() - lr * buffer, buffer, torch.where(p.mask, gradient, 0)]

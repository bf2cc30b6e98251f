"""Convolutions: what `sparsekern bench convolutions` measures on a CPU, and on a GPU."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from .case import OPS, Case, cases
from .linear import GPU_DTYPES, GPU_OPS, GPU_SPARSITIES
from .problem import Problem

CHANNELS = ((64, 32), (128, 16), (256, 8), (512, 4))  # with height and width, as the stages of a ResNet or VGG
DENSER = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # among which lies the sparsity of break-even
# in, out, kernel, stride, height and width, batch
GPU_CONVOLUTIONS = [(64, 64, 3, 1, 32, 128), (256, 256, 3, 1, 8, 128), (512, 512, 1, 1, 14, 128)]


@dataclass(frozen=True)
class Conv:
    """A convolution with a square kernel, padded so that stride 1 keeps the size, at one batch size."""

    in_channels: int
    out_channels: int
    size: int
    batch: int
    sparsity: float
    kernel: int = 3
    stride: int = 1
    dtype: str = "float32"

    @property
    def shape(self) -> str:
        stride = f"s{self.stride}" if self.stride > 1 else ""
        return f"conv{self.kernel}x{self.kernel}{stride}/{self.in_channels}-{self.out_channels}/{self.size}x{self.size}"

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels, self.kernel, self.kernel)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.batch, self.in_channels, self.size, self.size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        side = (self.size + 2 * self.padding - self.kernel) // self.stride + 1
        return (self.batch, self.out_channels, side, side)

    @property
    def macs(self) -> int:
        """Multiply-adds of one dense product, those with the padding included."""
        side = self.output_shape[-1]
        return self.batch * self.out_channels * side * side * self.in_channels * self.kernel * self.kernel


class ConvProblem(Problem):
    """The tensors of a convolution: x `[batch, in, size, size]`, dy as the output, the weight `[out, in, k, k]`."""

    @cached_property
    def _exact(self) -> dict[str, Tensor]:
        x, weight = self.x.double().requires_grad_(), self.dense.double().requires_grad_()
        output = conv2d(x, weight, None, self.layer.stride, self.layer.padding)
        grad_x, grad_weight = torch.autograd.grad(output, (x, weight), self.dy.double())
        return {
            "forward": output.detach(),
            "input_gradient": grad_x,
            "weight_gradient": grad_weight.flatten()[self.topology.coordinates()],
        }


def cpu_cases(quick: bool = False) -> list[Case]:
    if quick:
        return cases((Conv(64, 64, 8, 16, s) for s in (0.8, 0.95)), ("forward", "step"))
    found = []
    for channels, size in CHANNELS:
        found += cases((Conv(channels, channels, size, 64, s) for s in DENSER), ("step",))
        found += cases(Conv(channels, channels, size, 64, s) for s in (0.9, 0.95, 0.98))
    others: list[dict[str, Any]] = [
        {"in_channels": 256, "out_channels": 64, "size": 16, "batch": 64, "kernel": 1},
        {"in_channels": 64, "out_channels": 256, "size": 16, "batch": 64, "kernel": 1},
        {"in_channels": 64, "out_channels": 128, "size": 32, "batch": 64, "stride": 2},
        *({"in_channels": 64, "out_channels": 64, "size": 32, "batch": batch} for batch in (1, 8)),
        *({"in_channels": 256, "out_channels": 256, "size": 8, "batch": batch} for batch in (1, 8)),
        {"in_channels": 256, "out_channels": 256, "size": 14, "batch": 16},
    ]
    for other, sparsity in product(others, (0.5, 0.8, 0.9, 0.95, 0.98)):
        found += cases([Conv(**other, sparsity=sparsity)], OPS if sparsity == 0.9 else ("step",))
    return found + cases((Conv(128, 128, 16, 64, 0.9, dtype=dtype) for dtype in ("bfloat16", "float64")), ("step",))


def gpu_cases(quick: bool = False) -> list[Case]:
    shapes = [(8, 8, 3, 1, 6, 2)] if quick else GPU_CONVOLUTIONS
    layers = (
        Conv(channels, out, size, batch, sparsity, kernel, stride, dtype)
        for dtype, (channels, out, kernel, stride, size, batch), sparsity in product(GPU_DTYPES, shapes, GPU_SPARSITIES)
    )
    return cases(layers, GPU_OPS)

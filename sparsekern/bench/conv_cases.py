"""What the benchmark of convolutions measures: convolutions, operations on them, and their tensors."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from .cases import OPS, Case, Problem

CHANNELS = ((64, 32), (128, 16), (256, 8), (512, 4))  # with height and width, as the stages of a ResNet or VGG
DENSER = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # among which lies the sparsity of break-even


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

    def problem(self) -> "ConvProblem":
        return ConvProblem(self)


class ConvProblem(Problem):
    """The tensors of a convolution: x `[batch, in, size, size]`, dy as the output, the weight `[out, in, k, k]`."""

    layer: Conv

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


def suite(quick: bool = False) -> list[Case]:
    """The cases of `sparsekern bench convolutions`; `quick` is a subset of a few seconds."""
    if quick:
        return [Case(Conv(64, 64, 8, 16, s), ("forward", "step")) for s in (0.8, 0.95)]
    cases = []
    for channels, size in CHANNELS:
        cases += [Case(Conv(channels, channels, size, 64, s), ("step",)) for s in DENSER]
        cases += [Case(Conv(channels, channels, size, 64, s)) for s in (0.9, 0.95, 0.98)]
    others: list[dict[str, Any]] = [
        {"in_channels": 256, "out_channels": 64, "size": 16, "batch": 64, "kernel": 1},
        {"in_channels": 64, "out_channels": 256, "size": 16, "batch": 64, "kernel": 1},
        {"in_channels": 64, "out_channels": 128, "size": 32, "batch": 64, "stride": 2},
        *({"in_channels": 64, "out_channels": 64, "size": 32, "batch": batch} for batch in (1, 8)),
        *({"in_channels": 256, "out_channels": 256, "size": 8, "batch": batch} for batch in (1, 8)),
        {"in_channels": 256, "out_channels": 256, "size": 14, "batch": 16},
    ]
    cases += [
        Case(Conv(**other, sparsity=s), OPS if s == 0.9 else ("step",))
        for other in others
        for s in (0.5, 0.8, 0.9, 0.95, 0.98)
    ]
    return cases + [Case(Conv(128, 128, 16, 64, 0.9, dtype=dtype), ("step",)) for dtype in ("bfloat16", "float64")]

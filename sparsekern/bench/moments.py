"""Gradients with their second moment over samples: what `sparsekern bench moments` measures, on both devices.

`gradient` is the weight gradient of a layer, `step` its forward and backward pass through autograd, `training` 32
whole steps, SGD without momentum, of a network that is this layer.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.conv_geometry import ConvGeometry
from ..ops.straight_through import weight_gradient
from .case import Case, Layer, cases
from .convolutions import Conv
from .linear import GPU_DTYPES
from .problem import Problem, deviation

OPS = ("gradient", "step")
TRAINING = "training"
STEPS = 32  # of training


@dataclass(frozen=True)
class Sequences:
    """A linear layer over sequences of `positions`, or without them (0)."""

    in_features: int
    out_features: int
    batch: int
    positions: int
    sparsity: float
    dtype: str = "float32"

    @property
    def shape(self) -> str:
        positions = f"/{self.positions}" if self.positions else ""
        return f"linear/{self.in_features}-{self.out_features}{positions}"

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.out_features, self.in_features)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.batch, *([self.positions] if self.positions else []), self.in_features)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (*self.input_shape[:-1], self.out_features)

    @property
    def macs(self) -> int:
        """Multiply-adds of one dense product."""
        return self.in_features * self.out_features * self.batch * max(1, self.positions)


class MomentProblem(Problem):
    """The tensors of a layer, its dense twin and what both must compute.

    A result without the moment is compared without it.
    """

    @property
    def geometry(self) -> Any:
        if isinstance(self.layer, Sequences):
            return None
        kernel, stride, padding = self.layer.kernel, self.layer.stride, self.layer.padding
        return ConvGeometry.of(kernel, stride, padding, 1, 1)

    def module(self) -> Any:
        """The dense layer, the zeros of its weight in place."""
        layer, factory = self.layer, {"dtype": self.x.dtype, "device": self.x.device}
        if isinstance(layer, Sequences):
            module: Any = nn.Linear(layer.in_features, layer.out_features, **factory)
        else:
            geometry = (layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.padding)
            module = nn.Conv2d(*geometry, **factory)
        with torch.no_grad():
            module.weight.copy_(self.dense)
            module.bias.copy_(self.bias)
        if self.x.dim() == 4 and self.x.is_contiguous(memory_format=torch.channels_last):
            module.to(memory_format=torch.channels_last)
        return module

    @cached_property
    def _exact(self) -> dict[str, Tensor]:
        module, x = self.module().double(), self.x.double().requires_grad_()
        output = module(x)
        leaves = (x, module.weight, module.bias)
        gradients = torch.autograd.grad(output, leaves, self.dy.double())
        moment = torch.zeros_like(module.weight)
        for dy, sample in zip(self.dy.double().split(1), self.x.double().split(1), strict=True):
            moment += weight_gradient(dy, sample, tuple(moment.shape), self.geometry).square()
        names = ("output", "input", "weight", "bias", "moment")
        return dict(zip(names, (output.detach(), *gradients, moment.detach()), strict=True))

    def expected(self, op: str) -> tuple[Tensor, ...]:
        """Weight gradient and moment; before them, but for a gradient, output, bias gradient and input gradient."""
        names = ("weight", "moment") if op == "gradient" else ("output", "bias", "input", "weight", "moment")
        return tuple(self._exact[name] for name in names)

    def error(self, op: str, results: tuple[Tensor, ...]) -> float:
        """Returns the largest deviation from `expected`; the moment, which comes last, may be left out."""
        expected = self.expected(op)
        if len(results) not in (len(expected), len(expected) - 1):
            return float("inf")
        return max(deviation(result, exact) for result, exact in zip(results, expected, strict=False))


GPU_LAYERS = [
    *(Sequences(4096, 4096, samples, 0, 0.9) for samples in (16, 64, 256, 1024, 8192)),
    *(Sequences(4096, 4096, samples, 64, 0.9) for samples in (4, 16, 128)),
    *(Sequences(1024, 1024, samples, 0, 0.9) for samples in (128, 8192)),
    Sequences(1024, 1024, 64, 16, 0.9),
    Sequences(1024, 1024, 128, 64, 0.9),
    Conv(64, 64, 32, 128, 0.9),
    Conv(256, 256, 8, 128, 0.9),
    Conv(512, 512, 14, 128, 0.9, kernel=1),
]
GPU_QUICK = [Sequences(96, 160, 8, 0, 0.9), Sequences(96, 160, 3, 5, 0.9), Conv(8, 6, 6, 4, 0.9)]


def cpu_cases(quick: bool = False) -> list[Case]:
    if quick:
        return cases([Sequences(96, 64, 16, 0, 0.9), Conv(8, 16, 8, 8, 0.9)], OPS)
    layers: list[Layer] = [Sequences(784, 512, 128, 0, 0.8), Sequences(1024, 1024, 128, 0, 0.8)]
    long = Sequences(512, 512, 0, 0, 0.9)
    layers += [replace(long, batch=b, positions=p) for b, p in ((64, 16), (32, 64), (16, 196))]
    layers += [Conv(64, 64, 32, 64, 0.9), Conv(128, 128, 16, 64, 0.9), Conv(256, 256, 8, 64, 0.9)]
    layers += [Conv(256, 64, 16, 64, 0.9, kernel=1)]
    trained = {"linear/1024-1024"}
    return [case for layer in layers for case in cases([layer], (*OPS, TRAINING) if layer.shape in trained else OPS)]


def gpu_cases(quick: bool = False) -> list[Case]:
    layers = GPU_QUICK if quick else GPU_LAYERS
    return cases((replace(layer, dtype=dtype) for dtype in GPU_DTYPES for layer in layers), OPS)


def gpu_problem(layer: Sequences | Conv, device: torch.device) -> MomentProblem:
    """Makes a problem whose images lie channels_last."""
    layout = torch.channels_last if isinstance(layer, Conv) else torch.contiguous_format
    return MomentProblem(layer, device, layout=layout)

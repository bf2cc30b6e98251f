"""The tensors of a layer, and the results that its implementations must reproduce."""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from ..topology import CSC, Topology, nnz_at

# The largest error of a right result. A GPU adds up in another order, and its libraries in more parts.
TOLERANCE = {"cpu": {"float64": 1e-12, "float32": 1e-5}, "cuda": {"float64": 1e-12, "float32": 1e-4}}
TOLERANCE_16_BITS = 2e-2


class Checked(Protocol):
    """A problem whose solutions can be checked."""

    device: torch.device

    @property
    def tolerance(self) -> float: ...

    def error(self, op: str, results: tuple[Any, ...]) -> float:
        """Returns how far the results are from the right ones; infinite for another shape or NaN."""
        ...


def deviation(result: Tensor, exact: Tensor) -> float:
    """Returns the largest |result - exact| by the largest |exact|; infinite for another shape or NaN."""
    if result.shape != exact.shape:
        return float("inf")
    found = float((result.detach().double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30))
    return found if found == found else float("inf")


class Problem:
    """A linear layer: input `x [batch, in]`, gradient of the output `dy [batch, out]`, and the weight.

    Args:
        layer: has `weight_shape`, `input_shape`, `output_shape`, beside what every `Layer` has.
        views: of the topology, see `Topology`.
        layout: of images, where `x` is `[batch, channels, height, width]`.

    Attributes:
        topology, values, bias: the weight.
        dense, mask: the same weight `[out, in]`.
    """

    def __init__(
        self,
        layer: Any,
        device: torch.device | str = "cpu",
        views: frozenset[str] = CSC,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        dtype: torch.dtype = getattr(torch, layer.dtype)
        shape = layer.weight_shape
        self.layer, self.device = layer, torch.device(device)
        nnz = nnz_at(layer.sparsity, prod(shape))
        self.topology = Topology.random(shape, nnz, generator=generator, views=views).to(device)
        self.scale = max(1.0, self.topology.nnz / shape[0]) ** -0.5
        self.values = (self.scale * torch.randn(self.topology.nnz, generator=generator)).to(device, dtype)
        self.bias = torch.randn(shape[0], generator=generator).to(device, dtype)
        self.x = torch.randn(layer.input_shape, generator=generator).to(device, dtype)
        self.dy = torch.randn(layer.output_shape, generator=generator).to(device, dtype)
        if layout != torch.contiguous_format:
            self.x, self.dy = (t.contiguous(memory_format=layout) for t in (self.x, self.dy))
        self.dense = self.topology.dense(self.values)
        self.mask = self.topology.mask()

    @cached_property
    def master(self) -> Tensor:
        """The weight with other entries where the pattern has none."""
        return torch.where(self.mask, self.dense, self.scale * torch.randn_like(self.dense))

    @cached_property
    def _exact(self) -> dict[str, Tensor]:
        x, dy, weight = self.x.double(), self.dy.double(), self.dense.double()
        weight_gradient = (dy.t() @ x).flatten()[self.topology.coordinates()]
        return {"forward": x @ weight.t(), "input_gradient": dy @ weight, "weight_gradient": weight_gradient}

    def expected(self, op: str) -> tuple[Tensor, ...]:
        """Returns the results of `op` by dense products in fp64; a weight gradient at the nonzeros, `[nnz]`.

        A step gives output, input gradient, weight gradient and bias gradient.
        """
        if op != "step":
            return (self._exact[op],)
        output = self._exact["forward"] + self.bias.double().reshape(-1, *[1] * (self.dy.dim() - 2))
        bias_gradient = self.dy.double().transpose(0, 1).flatten(1).sum(1)
        return output, self._exact["input_gradient"], self._exact["weight_gradient"], bias_gradient

    def error(self, op: str, results: tuple[Tensor, ...]) -> float:
        """Returns the largest deviation from `expected`. A weight gradient may come dense `[out, in]`."""
        expected = self.expected(op)
        if len(results) != len(expected):
            return float("inf")
        worst = 0.0
        for result, exact in zip(results, expected, strict=True):
            if result.shape == self.dense.shape and exact.dim() == 1:
                result = result.flatten()[self.topology.coordinates()]
            worst = max(worst, deviation(result, exact))
        return worst

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.device.type].get(self.layer.dtype, TOLERANCE_16_BITS)

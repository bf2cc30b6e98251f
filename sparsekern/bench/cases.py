"""What the kernel benchmark measures: linear layers, operations on them, and their tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from ..topology import Topology, kept

OPS = ("forward", "input_gradient", "weight_gradient", "step")
SPARSITIES = (0.3, 0.4, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)


class AnyLayer(Protocol):
    """What the benchmark asks of a layer."""

    @property
    def sparsity(self) -> float: ...
    @property
    def dtype(self) -> str: ...
    @property
    def batch(self) -> int: ...
    @property
    def shape(self) -> str: ...
    @property
    def macs(self) -> int: ...
    @property
    def weight_shape(self) -> tuple[int, ...]: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...
    @property
    def output_shape(self) -> tuple[int, ...]: ...
    def problem(self) -> Problem: ...


@dataclass(frozen=True)
class Layer:
    """A linear layer at one batch size; `dtype` is the name of a torch dtype."""

    in_features: int
    out_features: int
    batch: int
    sparsity: float
    dtype: str = "float32"

    @property
    def shape(self) -> str:
        return f"{self.in_features}x{self.out_features}"

    @property
    def macs(self) -> int:
        """Multiply-adds of one dense product."""
        return self.in_features * self.out_features * self.batch

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.out_features, self.in_features)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.batch, self.in_features)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.batch, self.out_features)

    def problem(self) -> Problem:
        return Problem(self)


@dataclass(frozen=True)
class Case:
    """Operations of `OPS` on one layer."""

    layer: AnyLayer
    ops: tuple[str, ...] = OPS


def suite(quick: bool = False) -> list[Case]:
    """The cases of `sparsekern bench kernels`; `quick` is a subset of a few seconds."""
    if quick:
        return [Case(Layer(784, 512, 128, s), ("forward", "step")) for s in (0.8, 0.95)]
    shapes = [(784, 512, 128), (1024, 1024, 32), (1024, 1024, 128), (1024, 1024, 512), (4096, 4096, 128)]
    cases = [Case(Layer(*shape, sparsity)) for shape in shapes for sparsity in SPARSITIES]
    for dtype in ("bfloat16", "float64"):
        cases += [Case(Layer(1024, 1024, 128, s, dtype), ("forward", "step")) for s in (0.8, 0.9, 0.95, 0.98)]
    return cases


def name(op: str, layer: AnyLayer) -> str:
    """What `matching` looks into: "step 1024x1024 B=128 90% float32"."""
    return f"{op} {layer.shape} B={layer.batch} {layer.sparsity:.0%} {layer.dtype}"


def has_words(name: str, words: str) -> bool:
    """Whether a name has every one of the words; B=1 is not in B=128."""
    return all(re.search(_whole_numbers(word), name) for word in words.split())


def matching(cases: Sequence[Case], words: str) -> list[Case]:
    """The cases, and of each the operations, whose `name` has every one of the words."""
    ops = [tuple(op for op in case.ops if has_words(name(op, case.layer), words)) for case in cases]
    return [replace(case, ops=found) for case, found in zip(cases, ops, strict=True) if found]


def _whole_numbers(word: str) -> str:
    before = r"(?<!\d)" if word[0].isdigit() else ""
    return before + re.escape(word) + (r"(?!\d)" if word[-1].isdigit() else "")


class Problem:
    """The tensors of a layer, and the results that its implementations must reproduce.

    Attributes:
        x, dy: input `[batch, in]` and gradient of the output `[batch, out]`.
        topology, values, bias: the weight.
        dense, mask: the same weight `[out, in]`.
    """

    layer: AnyLayer

    def __init__(self, layer: AnyLayer, device: torch.device | str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        dtype: torch.dtype = getattr(torch, layer.dtype)
        shape = layer.weight_shape
        self.layer = layer
        self.topology = Topology.random(shape, kept(layer.sparsity, prod(shape)), generator=generator).to(device)
        scale = max(1.0, self.topology.nnz / shape[0]) ** -0.5
        self.values = (scale * torch.randn(self.topology.nnz, generator=generator)).to(device, dtype)
        self.bias = torch.randn(shape[0], generator=generator).to(device, dtype)
        self.x = torch.randn(layer.input_shape, generator=generator).to(device, dtype)
        self.dy = torch.randn(layer.output_shape, generator=generator).to(device, dtype)
        self.dense = self.topology.dense(self.values)
        self.mask = self.topology.mask()

    @cached_property
    def _exact(self) -> dict[str, Tensor]:
        x, dy, weight = self.x.double(), self.dy.double(), self.dense.double()
        weight_gradient = (dy.t() @ x).flatten()[self.topology.coordinates()]
        return {"forward": x @ weight.t(), "input_gradient": dy @ weight, "weight_gradient": weight_gradient}

    def expected(self, op: str) -> tuple[Tensor, ...]:
        """The results of `op` by dense products in fp64; a weight gradient at the nonzeros, `[nnz]`.

        A step gives output, input gradient, weight gradient and bias gradient.
        """
        if op != "step":
            return (self._exact[op],)
        output = self._exact["forward"] + self.bias.double().reshape(-1, *[1] * (self.dy.dim() - 2))
        bias_gradient = self.dy.double().transpose(0, 1).flatten(1).sum(1)
        return output, self._exact["input_gradient"], self._exact["weight_gradient"], bias_gradient

    def error(self, op: str, results: tuple[Tensor, ...]) -> float:
        """The largest deviation from `expected`, relative to the largest expected magnitude.

        A weight gradient may come dense `[out, in]`. A wrong shape counts as infinite.
        """
        worst = 0.0
        expected = self.expected(op)
        if len(results) != len(expected):
            return float("inf")
        for result, exact in zip(results, expected, strict=True):
            if result.shape == self.dense.shape and exact.dim() == 1:
                result = result.flatten()[self.topology.coordinates()]
            if result.shape != exact.shape:
                return float("inf")
            deviation = float((result.detach().double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30))
            worst = max(worst, deviation if deviation == deviation else float("inf"))
        return worst

    @property
    def tolerance(self) -> float:
        return {"float64": 1e-12, "float32": 1e-5}.get(self.layer.dtype, 2e-2)

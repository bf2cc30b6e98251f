"""What the kernel benchmark measures: linear layers, operations on them, and their tensors."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..topology import Topology, kept

OPS = ("forward", "input_gradient", "weight_gradient", "step")
SPARSITIES = (0.3, 0.4, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)


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


@dataclass(frozen=True)
class Case:
    """Operations of `OPS` on one layer."""

    layer: Layer
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


class Problem:
    """The tensors of a layer, and the results that its implementations must reproduce.

    Attributes:
        x, dy: input `[batch, in]` and gradient of the output `[batch, out]`.
        topology, values, bias: the weight.
        dense, mask: the same weight `[out, in]`.
    """

    def __init__(self, layer: Layer) -> None:
        generator = torch.Generator().manual_seed(0)
        dtype: torch.dtype = getattr(torch, layer.dtype)
        shape = (layer.out_features, layer.in_features)
        self.layer = layer
        self.topology = Topology.random(shape, kept(layer.sparsity, shape[0] * shape[1]), generator=generator)
        scale = max(1.0, self.topology.nnz / layer.out_features) ** -0.5
        self.values = (scale * torch.randn(self.topology.nnz, generator=generator)).to(dtype)
        self.bias = torch.randn(layer.out_features, generator=generator).to(dtype)
        self.x = torch.randn(layer.batch, layer.in_features, generator=generator).to(dtype)
        self.dy = torch.randn(layer.batch, layer.out_features, generator=generator).to(dtype)
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
        output = self._exact["forward"] + self.bias.double()
        return output, self._exact["input_gradient"], self._exact["weight_gradient"], self.dy.double().sum(0)

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

"""`sparsekern bench moments`: the gradient with its second moment over samples, beside the gradient alone.

`gradient` is the weight gradient of a layer, `step` its forward and backward pass through autograd. In a step `dense`
is torch, `backpack` the same layer extended by BackPACK's SumGradSquared; `dpf` multiplies the nonzeros but takes the
dense gradient, `sparsekern` is `dpf` with the moment, and `sparsekern-snr` moves the signal-to-noise ratios, too.
`training` is 32 whole steps, SGD without momentum, of a network that is this layer: `sparsekern-snr-32` is pruned by
the method `snr` with a new mask in one of them, `sparsekern-snr-1` with one in each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..nn import MaskedConv2d, MaskedLinear
from ..nn.layer import parameter_of
from ..ops.conv2d_gradient_moment import moment_of
from ..ops.straight_through import weight_gradient
from ..ops.window import Window
from ..sparsity import Sparsifier, sparsify
from ..sparsity.methods import snr
from . import kernels
from .cases import AnyLayer, Case, Problem
from .conv_cases import Conv
from .peers import OURS, TORCH, Implementation, Peer, package, size

OPS = ("gradient", "step")
TRAINING = "training"
STEPS = 32  # of training
LONG = 16  # positions


@dataclass(frozen=True)
class Linear:
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

    def problem(self) -> "MomentProblem":
        return MomentProblem(self)


@dataclass(frozen=True)
class Conv2d(Conv):
    """As the benchmark of convolutions has it."""

    def problem(self) -> "MomentProblem":  # type: ignore[override]
        return MomentProblem(self)


class MomentProblem(Problem):
    """The tensors of a layer, its dense twin and what both must compute.

    A result without the moment is compared without it.
    """

    layer: Linear | Conv2d  # type: ignore[assignment]

    @property
    def window(self) -> Any:
        if isinstance(self.layer, Linear):
            return None
        kernel, stride, padding = self.layer.kernel, self.layer.stride, self.layer.padding
        return Window.of(kernel, stride, padding, 1, 1)

    def module(self) -> Any:
        """The dense layer, the zeros of its weight in place."""
        layer, factory = self.layer, {"dtype": self.x.dtype, "device": self.x.device}
        if isinstance(layer, Linear):
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
            moment += weight_gradient(dy, sample, tuple(moment.shape), self.window).square()
        names = ("output", "input", "weight", "bias", "moment")
        return dict(zip(names, (output.detach(), *gradients, moment.detach()), strict=True))

    def expected(self, op: str) -> tuple[Tensor, ...]:
        """Weight gradient and moment; before them, but for a gradient, output, bias gradient and input gradient."""
        names = ("weight", "moment") if op == "gradient" else ("output", "bias", "input", "weight", "moment")
        return tuple(self._exact[name] for name in names)

    def error(self, op: str, results: tuple[Tensor, ...]) -> float:
        expected = self.expected(op)
        if len(results) not in (len(expected), len(expected) - 1):
            return float("inf")
        worst = 0.0
        for result, exact in zip(results, expected, strict=False):
            if result.shape != exact.shape:
                return float("inf")
            deviation = float((result.detach().double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30))
            worst = max(worst, deviation if deviation == deviation else float("inf"))
        return worst


def _product(p: MomentProblem, moment: bool) -> Implementation:
    if not moment:
        return Implementation(lambda: (weight_gradient(p.dy, p.x, p.layer.weight_shape, p.window),), size(p.dense))
    return Implementation(lambda: moment_of(p.dy, p.x, p.window), 2 * size(p.dense))


def _passes(
    p: MomentProblem, layer: Any, extra: Callable[[], tuple[Tensor, ...]] = tuple
) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward; `extra` returns the moment and clears it."""
    x: Any = p.x.clone().requires_grad_()
    weight: Any = parameter_of(layer)

    def call() -> tuple[Tensor, ...]:
        for leaf in (weight, layer.bias, x):
            leaf.grad = None
        output = layer(x)
        output.backward(p.dy)
        return output, layer.bias.grad, x.grad, weight.grad, *extra()

    return call


def _dense(p: MomentProblem, op: str) -> Implementation:
    if op == "gradient":
        return _product(p, False)
    layer = p.module()
    passes = _passes(p, layer)
    return Implementation(_training(passes, _still(layer)) if op == TRAINING else passes, size(p.dense))


def _still(model: nn.Module) -> torch.optim.Optimizer:
    """All the work of an optimizer, and the same weights ever after."""
    return torch.optim.SGD(model.parameters(), lr=0.0)


def _training(
    passes: Callable[[], tuple[Tensor, ...]], optimizer: Any, before: Callable[[], None] = lambda: None
) -> Callable[[], tuple[Tensor, ...]]:
    def call() -> tuple[Tensor, ...]:
        results: tuple[Tensor, ...] = ()
        for _ in range(STEPS):
            before()
            results = passes()
            optimizer.step()
        return results

    return call


def _pruned(p: MomentProblem, op: str, every: int) -> Implementation:
    """Trained by `snr` with ratios that do not move and give the problem's pattern, but for one weight close to 0 that
    comes and one that goes at every change."""
    method = snr(
        total_steps=10**15, steps_per_epoch=1, memory=1, burn_in=0, every=every, hold="never", include_classifier=True
    )
    model: Any = sparsify(nn.Sequential(p.module()), method)
    optimizer = Sparsifier(model, _still(model), method)
    layer = model[0]
    tracked = optimizer.sites[0].tracked
    tracked["updates"] += 1
    ratio = tracked["ratio"].copy_(2.0 * p.mask)
    absent = (~p.mask).flatten().nonzero()[-2:].tolist()
    with torch.no_grad():
        layer.master.add_(1e-9 * torch.randn_like(layer.master))

    def before() -> None:
        for i, at in enumerate(absent):
            ratio.view(-1)[at] = 2.0 * (i == optimizer.steps // every % 2)

    return Implementation(_training(_passes(p, layer), optimizer, before), size(layer.master, *layer.index, ratio))


def _backpack(p: MomentProblem, op: str) -> Implementation:
    from backpack import backpack, extend  # type: ignore[import-not-found]
    from backpack.extensions import SumGradSquared  # type: ignore[import-not-found]

    if isinstance(p.layer, Linear) and p.layer.positions > LONG:
        raise NotImplementedError(f"takes minutes on sequences of more than {LONG} positions")
    layer: Any = extend(p.module())
    passes = _passes(p, layer, lambda: (layer.weight.sum_grad_squared,))

    def call() -> tuple[Tensor, ...]:
        with backpack(SumGradSquared()):
            return passes()

    return Implementation(call, 2 * size(p.dense))


def _ours(p: MomentProblem, op: str, gradient: str, update: bool = False) -> Implementation:
    if op == "gradient":
        return _product(p, True)
    kind = MaskedLinear if isinstance(p.layer, Linear) else MaskedConv2d
    layer: Any = kind.from_dense(p.module(), p.mask, weight_gradient=gradient)
    ratio = torch.zeros_like(layer.master, dtype=torch.promote_types(layer.master.dtype, torch.float32))

    def take() -> tuple[Tensor, ...]:
        if layer.moment is None:
            return ()
        moment, samples, layer.moment, layer.samples = layer.moment, layer.samples, None, 0
        if update:
            ops.snr_update(ratio, layer.master.grad, moment, samples, 0.9, False)
        return (moment,)

    return Implementation(_passes(p, layer, take), size(layer.master, *layer.index))


_BACKPACK: dict[str, Any] = package("backpack") | {"version": lambda: metadata.version("backpack-for-pytorch")}

# The first one is what the others are divided by.
PEERS = (
    Peer("dense", (*OPS, TRAINING), _dense, **TORCH, dtypes=OURS["dtypes"]),
    Peer("backpack", ("step",), _backpack, **_BACKPACK, dtypes=OURS["dtypes"]),
    Peer("dpf", ("step",), partial(_ours, gradient="dense"), **OURS),
    Peer("sparsekern", OPS, partial(_ours, gradient="moment"), **OURS),
    Peer("sparsekern-snr", ("step",), partial(_ours, gradient="moment", update=True), **OURS),
    Peer("sparsekern-snr-32", (TRAINING,), partial(_pruned, every=32), **OURS),
    Peer("sparsekern-snr-1", (TRAINING,), partial(_pruned, every=1), **OURS),
)


def suite(quick: bool = False) -> list[Case]:
    """The cases of `sparsekern bench moments`; `quick` is a subset of a few seconds."""
    if quick:
        return [Case(Linear(96, 64, 16, 0, 0.9), OPS), Case(Conv2d(8, 16, 8, 8, 0.9), OPS)]
    layers: list[AnyLayer] = [Linear(784, 512, 128, 0, 0.8), Linear(1024, 1024, 128, 0, 0.8)]
    layers += [replace(Linear(512, 512, 0, 0, 0.9), batch=b, positions=p) for b, p in ((64, 16), (32, 64), (16, 196))]
    layers += [Conv2d(64, 64, 32, 64, 0.9), Conv2d(128, 128, 16, 64, 0.9), Conv2d(256, 256, 8, 64, 0.9)]
    layers += [Conv2d(256, 64, 16, 64, 0.9, kernel=1)]
    return [Case(layer, (*OPS, TRAINING) if layer.shape == "linear/1024-1024" else OPS) for layer in layers]


def run(cases: Sequence[Case] | None = None, *, quick: bool = False, **options: Any) -> dict:
    """`kernels.run` on the cases of `suite`."""
    options = {"peers": PEERS, **options}
    return kernels.run(suite(quick) if cases is None else cases, benchmark="moments", **options)

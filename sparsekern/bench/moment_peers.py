"""Every implementation of a gradient with its second moment over samples, beside the gradient alone.

In a step `dense` is torch, `backpack` the same layer extended by BackPACK's SumGradSquared; `dpf` multiplies the
nonzeros but takes the dense gradient, `sparsekern` is `dpf` with the moment, and `sparsekern-snr` moves the
signal-to-noise ratios, too. Of whole trainings, `sparsekern-snr-32` is pruned by the method `snr` with a new mask in
one of 32 steps, `sparsekern-snr-1` with one in each. `two-products` is what BackPACK does for a linear layer without
positions.
"""

from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..nn import MaskedConv2d, MaskedLinear
from ..nn.layer import parameter_of
from ..ops.conv2d_gradient_moment import moment_of
from ..ops.shapes import accumulate_dtype
from ..ops.straight_through import weight_gradient
from ..sparsity import Sparsifier, sparsify
from ..sparsity.methods import snr
from .moments import OPS, STEPS, TRAINING, MomentProblem, Sequences
from .peer import OURS, TORCH, Implementation, Peer, package, size

LONG = 16  # positions


def _product(p: MomentProblem, moment: bool) -> Implementation:
    if not moment:
        return Implementation(lambda: (weight_gradient(p.dy, p.x, p.layer.weight_shape, p.geometry),), size(p.dense))
    return Implementation(lambda: moment_of(p.dy, p.x, p.geometry), 2 * size(p.dense))


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
    """Returns an optimizer that does all of its work and leaves the weights as they are."""
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

    if isinstance(p.layer, Sequences) and p.layer.positions > LONG:
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
    kind = MaskedLinear if isinstance(p.layer, Sequences) else MaskedConv2d
    layer: Any = kind.from_dense(p.module(), p.mask, weight_gradient=gradient)
    ratio = torch.zeros_like(layer.master, dtype=accumulate_dtype(layer.master.dtype))

    def take() -> tuple[Tensor, ...]:
        if layer.moment is None:
            return ()
        moment, samples = layer.moment, layer.samples
        layer.gradient_moment.clear()
        if update:
            ops.snr_update(ratio, layer.master.grad, moment, samples, 0.9, False)
        return (moment,)

    return Implementation(_passes(p, layer, take), size(layer.master, *layer.index))


def _two_products(p: MomentProblem, op: str) -> Implementation:
    dy, x = p.dy, p.x
    return Implementation(lambda: (dy.t() @ x, dy.square().t() @ x.square()))


def _flat(layer: Any) -> bool:
    return isinstance(layer, Sequences) and not layer.positions


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
GPU_PEERS = (*PEERS, Peer("two-products", ("gradient",), _two_products, **TORCH, dtypes=OURS["dtypes"], offers=_flat))

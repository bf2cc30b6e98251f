"""Implementations that are compared: how each is built, and where it comes from."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .. import __version__ as own_version
from .problem import TOLERANCE_16_BITS, Problem

Result = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Implementation:
    """A call that computes one operation, and the bytes of the weight as it holds it."""

    call: Callable[[], Any]
    bytes: int | None = None


@dataclass(frozen=True)
class Peer:
    """One way to compute a sparse layer.

    Attributes:
        ops: the operations that it offers.
        build: prepares one of them on a problem; raises a RuntimeError, or a NotImplementedError, if it cannot.
        version: of the package that it is from.
        missing: returns why it cannot run here, or None.
        dtypes: those that it computes in.
        offers: tells whether it has something to compare on a layer at all.
        tolerance: the largest error of a right result, if that is more than the problem allows.
    """

    name: str
    ops: tuple[str, ...]
    build: Callable[[Any, str], Implementation]
    version: Callable[[], str]
    missing: Callable[[], str | None] = lambda: None
    dtypes: tuple[str, ...] = ("float32",)
    offers: Callable[[Any], bool] = lambda layer: True
    tolerance: float = 0.0

    def why_not(self, dtype: str) -> str | None:
        return self.missing() or (None if dtype in self.dtypes else f"has no {dtype}")


def size(*tensors: Tensor) -> int:
    """Returns the bytes of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def step(
    forward: Callable[..., Tensor], problem: Problem, weight: Tensor, x: Tensor | None = None, dy: Tensor | None = None
) -> Callable[[], Result]:
    """Returns forward and backward of `forward(x, weight, bias)` by autograd, by default on the problem's tensors."""
    x = (problem.x if x is None else x).clone().requires_grad_()
    dy = problem.dy if dy is None else dy
    bias, weight = problem.bias.clone().requires_grad_(), weight.detach().requires_grad_()

    def call() -> Result:
        output = forward(x, weight, bias)
        return output, *torch.autograd.grad(output, (x, weight, bias), dy)

    return call


def layer_step(layer: Any, p: Problem, weight: Tensor) -> Callable[[], Result]:
    """Returns forward and backward of a layer through autograd."""
    x = p.x.clone().requires_grad_()

    def call() -> Result:
        output = layer(x)
        return output, *torch.autograd.grad(output, (x, weight, layer.bias), p.dy)

    return call


@lru_cache(maxsize=1)
def compiled(forward: Callable[..., Tensor], *shape: Any) -> Any:
    """Returns `torch.compile(forward)` for tensors of one shape; as cases come shape by shape, each compiles once."""
    torch.compiler.reset()  # or else a limit of recompilations would end in eager mode
    return torch.compile(forward, dynamic=False)


def autocast(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns `forward` under autocast to bf16."""

    def narrow(*tensors: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*tensors)

    return narrow


def in_bf16(problem: Problem) -> Problem:
    """Returns a problem whose input and output gradient are in bf16, as layers around hand them on under autocast."""
    narrow = copy(problem)
    narrow.x, narrow.dy = problem.x.bfloat16(), problem.dy.bfloat16()
    return narrow


def own_layer_in_bf16(layer: Any, p: Problem, op: str) -> Implementation:
    """Builds the step of a layer of ours under autocast to bf16."""
    layer.forward = autocast(layer.forward)
    return own_layer(layer, in_bf16(p), op)


def own_layer(layer: Any, p: Problem, op: str) -> Implementation:
    """Builds on a layer of ours with the kernel that it chooses itself; its gradients come through autograd."""
    with torch.no_grad():
        layer.values.copy_(p.values)
        if layer.bias is not None:
            layer.bias.copy_(p.bias)
    held = size(layer.values, *layer.index)
    if op == "forward":
        return Implementation(torch.no_grad()(lambda: layer(p.x)), held)
    if op == "step":
        return Implementation(layer_step(layer, p, layer.values), held)
    x = p.x.clone().requires_grad_(op == "input_gradient")
    layer.values.requires_grad_(op == "weight_gradient")
    leaf, output = x if op == "input_gradient" else layer.values, layer(x)
    return Implementation(lambda: torch.autograd.grad(output, leaf, p.dy, retain_graph=True), held)


def package(name: str, *, needs: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns what a `Peer` says of a package that may be missing, and of others that it needs."""

    def missing() -> str | None:
        absent = [module for module in (name, *needs) if find_spec(module) is None]
        return f"not installed: {', '.join(absent)} (make peers)" if absent else None

    return {"missing": missing, "version": lambda: metadata.version(name)}


TORCH: dict[str, Any] = {"version": lambda: torch.__version__}
OURS: dict[str, Any] = {"version": lambda: own_version, "dtypes": ("float32", "float64", "bfloat16")}
# Under autocast to bf16.
BF16: dict[str, Any] = {"tolerance": TOLERANCE_16_BITS}
BF16_OURS: dict[str, Any] = {**OURS, **BF16, "dtypes": ("float32",)}

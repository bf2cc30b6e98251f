"""Every implementation of a sparse linear layer that the benchmark compares.

A result must be what the next layer can use: output and input gradient `[batch, features]` contiguous, layout
transposes included in the time. What a fixed pattern allows to prepare once is prepared outside of it, including
the transposed values of a peer that needs them for the input gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from .. import __version__ as own_version
from ..nn import SparseLinear
from ..topology import COLUMNS, Topology
from . import mkl
from .cases import OPS, Problem

Result = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Implementation:
    """A call that computes one operation, and the bytes of the weight as it holds it."""

    call: Callable[[], Result]
    bytes: int


@dataclass(frozen=True)
class Peer:
    """One way to compute a sparse layer.

    Attributes:
        ops: the operations that it offers.
        build: prepares one of them on a `Problem`.
        missing: why it cannot run here, or None.
        dtypes: those that it computes in.
    """

    name: str
    ops: tuple[str, ...]
    build: Callable[[Any, str], Implementation]
    version: Callable[[], str]
    missing: Callable[[], str | None] = lambda: None
    dtypes: tuple[str, ...] = ("float32",)

    def why_not(self, dtype: str) -> str | None:
        return self.missing() or (None if dtype in self.dtypes else f"has no {dtype}")


def size(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def step(
    forward: Callable[..., Tensor], problem: Problem, weight: Tensor, x: Tensor | None = None, dy: Tensor | None = None
) -> Callable[[], Result]:
    """Forward and backward through autograd: `forward(x, weight, bias)`; `x` and `dy` are the problem's by default."""
    x = (problem.x if x is None else x).clone().requires_grad_()
    dy = problem.dy if dy is None else dy
    bias, weight = problem.bias.clone().requires_grad_(), weight.detach().requires_grad_()

    def call() -> Result:
        output = forward(x, weight, bias)
        return output, *torch.autograd.grad(output, (x, weight, bias), dy)

    return call


# ---- torch


def _dense(p: Problem, op: str) -> Implementation:
    x, dy, weight = p.x, p.dy, p.dense
    calls = {
        "forward": lambda: linear(x, weight),
        "input_gradient": lambda: dy @ weight,
        "weight_gradient": lambda: dy.t() @ x,
    }
    return Implementation(calls[op] if op != "step" else step(linear, p, weight), size(weight))


def _masked(p: Problem, op: str) -> Implementation:
    x, dy, weight, mask = p.x, p.dy, p.dense, p.mask.to(p.dense.dtype)
    calls = {
        "forward": lambda: linear(x, weight * mask),
        "input_gradient": lambda: dy @ (weight * mask),
        "weight_gradient": lambda: (dy.t() @ x).mul_(mask),
    }
    whole = partial(step, lambda x, weight, bias: linear(x, weight * mask, bias), p, weight)
    return Implementation(calls[op] if op != "step" else whole(), size(weight, mask))


def _csr(topology: Topology, values: Tensor) -> Tensor:
    return torch.sparse_csr_tensor(topology.row_ptr, topology.col, values, topology.shape)


def _transposed(p: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """`row_ptr`, `col` and values of the transposed weight."""
    index = p.topology.index
    pointers, rows, position = index.t_ptr, index.t_row, index.t_pos
    return pointers, rows, p.values[position.long()]


def _torch_csr(p: Problem, op: str) -> Implementation:
    weight = _csr(p.topology, p.values)
    held = size(p.values, p.topology.row_ptr, p.topology.col)
    if op == "forward":
        return Implementation(lambda: (weight @ p.x.t()).t().contiguous(), held)
    if op == "input_gradient":
        transposed = torch.sparse_csr_tensor(*_transposed(p), p.topology.shape[::-1])
        return Implementation(lambda: (transposed @ p.dy.t()).t().contiguous(), held)
    if op == "weight_gradient":
        pattern = _csr(p.topology, torch.zeros_like(p.values))
        return Implementation(lambda: torch.sparse.sampled_addmm(pattern, p.dy.t(), p.x, beta=0.0).values(), held)
    return Implementation(step(lambda x, weight, bias: (weight @ x.t()).t() + bias, p, weight), held)


# ---- other packages


def _mkl(p: Problem, op: str, column_major: bool) -> Implementation:
    if op == "forward":
        row_ptr, col, values = p.topology.row_ptr, p.topology.col, p.values
        input, cols = p.x, p.topology.cols
    else:
        row_ptr, col, values = _transposed(p)
        input, cols = p.dy, p.topology.rows
    matrix = mkl.Matrix(row_ptr, col, values, cols, p.layer.batch, column_major)
    return Implementation(lambda: matrix.linear(input), size(row_ptr, col, values))


def _scipy(p: Problem, op: str) -> Implementation:
    import numpy as np
    from scipy.sparse import csr_matrix

    if op == "forward":
        row_ptr, col, values, shape = p.topology.row_ptr, p.topology.col, p.values, p.topology.shape
        input = p.x.numpy()
    else:
        row_ptr, col, values = _transposed(p)
        input, shape = p.dy.numpy(), p.topology.shape[::-1]
    matrix = csr_matrix((values.numpy(), col.numpy(), row_ptr.numpy()), shape=shape)

    def call() -> Result:
        product = matrix @ np.ascontiguousarray(input.T)
        return torch.from_numpy(np.ascontiguousarray(product.T))

    return Implementation(call, size(row_ptr, col, values))


def _sparseprop(p: Problem, op: str) -> Implementation:
    from sparseprop.modules import SparseLinear as Layer  # type: ignore[import-not-found]

    layer = Layer(p.dense, torch.nn.Parameter(p.bias.clone()) if op == "step" else None)
    held = size(layer.W_val, *layer.W_idx)
    if op == "forward":
        return Implementation(torch.no_grad()(lambda: layer(p.x)), held)
    return Implementation(layer_step(layer, p, layer.W_val), held)


def layer_step(layer: Any, p: Problem, weight: Tensor) -> Callable[[], Result]:
    x = p.x.clone().requires_grad_()

    def call() -> Result:
        output = layer(x)
        return output, *torch.autograd.grad(output, (x, weight, layer.bias), p.dy)

    return call


# ---- ours


def _kernel(p: Problem, op: str, name: str, tiled: bool) -> Implementation:
    topology = Topology(p.topology.shape, p.topology.row_ptr, p.topology.col, COLUMNS | {"tiles"} if tiled else COLUMNS)
    index, values, rows = topology.index, p.values, topology.rows
    forward, backward = getattr(torch.ops.sparsekern, name), getattr(torch.ops.sparsekern, f"{name}_backward")
    calls = {
        "forward": lambda: forward(p.x, values, index, None, rows),
        "input_gradient": lambda: backward(p.dy, p.x, values, index, True, False, False)[0],
        "weight_gradient": lambda: backward(p.dy, p.x, values, index, False, True, False)[1],
    }
    whole = partial(step, lambda x, values, bias: forward(x, values, index, bias, rows), p, values)
    return Implementation(calls[op] if op != "step" else whole(), size(values, *index))


def _layer(p: Problem, op: str) -> Implementation:
    rows, cols = p.topology.shape
    return own_layer(SparseLinear(cols, rows, op == "step", dtype=p.values.dtype, topology=p.topology), p, op)


def own_layer(layer: Any, p: Problem, op: str) -> Implementation:
    """A layer of ours with the kernel that it chooses itself; its gradients come through autograd."""
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
    def missing() -> str | None:
        absent = [module for module in (name, *needs) if find_spec(module) is None]
        return f"not installed: {', '.join(absent)} (make peers)" if absent else None

    return {"missing": missing, "version": lambda: metadata.version(name)}


TORCH: dict[str, Any] = {"version": lambda: torch.__version__}
OURS: dict[str, Any] = {"version": lambda: own_version, "dtypes": ("float32", "float64", "bfloat16")}
_PRODUCTS = ("forward", "input_gradient")

# The first one is what the others are divided by.
PEERS = (
    Peer("dense", OPS, _dense, **TORCH, dtypes=("float32", "float64", "bfloat16")),
    Peer("masked", OPS, _masked, **TORCH, dtypes=("float32", "float64", "bfloat16")),
    Peer("torch-csr", OPS, _torch_csr, **TORCH, dtypes=("float32", "float64")),
    Peer("mkl", _PRODUCTS, partial(_mkl, column_major=False), version=mkl.version, missing=mkl.missing),
    Peer("mkl-column", _PRODUCTS, partial(_mkl, column_major=True), version=mkl.version, missing=mkl.missing),
    Peer("scipy", _PRODUCTS, _scipy, **package("scipy"), dtypes=("float32", "float64")),
    Peer("sparseprop", ("forward", "step"), _sparseprop, **package("sparseprop", needs=("scipy",))),
    Peer("sparsekern-csr", OPS, partial(_kernel, name="sparse_linear", tiled=False), **OURS),
    Peer("sparsekern-tiled", OPS, partial(_kernel, name="sparse_linear", tiled=True), **OURS),
    Peer("sparsekern-expanded", OPS, partial(_kernel, name="expanded_linear", tiled=False), **OURS),
    Peer("sparsekern", OPS, _layer, **OURS),
)

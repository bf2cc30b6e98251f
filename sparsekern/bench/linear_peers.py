"""Every implementation of a sparse linear layer on a CPU.

A result must be what the next layer can use: output and input gradient `[batch, features]` contiguous, layout
transposes included in the time. What a fixed pattern allows to prepare once is prepared outside of it, including
the transposed values of a peer that needs them for the input gradient.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..nn import SparseLinear
from ..topology import CSC, PACKED, TILES, Topology
from . import mkl
from .case import OPS
from .peer import (
    BF16,
    BF16_OURS,
    OURS,
    TORCH,
    Implementation,
    Peer,
    Result,
    autocast,
    compiled,
    in_bf16,
    layer_step,
    own_layer,
    own_layer_in_bf16,
    package,
    size,
    step,
)
from .problem import Problem

# ---- torch


def dense(p: Problem, op: str) -> Implementation:
    x, dy, weight = p.x, p.dy, p.dense
    calls = {
        "forward": lambda: linear(x, weight),
        "input_gradient": lambda: dy @ weight,
        "weight_gradient": lambda: dy.t() @ x,
    }
    return Implementation(calls[op] if op != "step" else step(linear, p, weight), size(weight))


def _compiled(p: Problem, op: str) -> Implementation:
    return Implementation(
        step(compiled(linear, p.layer.shape, p.layer.batch, p.layer.dtype), p, p.dense), size(p.dense)
    )


def _dense_bf16(p: Problem, op: str) -> Implementation:
    return Implementation(step(autocast(linear), in_bf16(p), p.dense), size(p.dense))


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


# ---- ours


def kernel(p: Problem, op: str, name: str, views: frozenset[str] = CSC) -> Implementation:
    """Builds an operation on an operator and its backward, on the views of the pattern that the layer would hold."""
    topology = p.topology.with_views(views)
    index, values, rows = topology.index, p.values, topology.rows
    forward, backward = getattr(torch.ops.sparsekern, name), getattr(torch.ops.sparsekern, f"{name}_backward")
    calls = {
        "forward": lambda: forward(p.x, values, index, None, rows),
        "input_gradient": lambda: backward(p.dy, p.x, values, index, True, False, False)[0],
        "weight_gradient": lambda: backward(p.dy, p.x, values, index, False, True, False)[1],
    }
    whole = partial(step, lambda x, values, bias: forward(x, values, index, bias, rows), p, values)
    return Implementation(calls[op] if op != "step" else whole(), size(values, *index))


def _layer(p: Problem, op: str, build: Callable[..., Implementation] = own_layer) -> Implementation:
    rows, cols = p.topology.shape
    return build(SparseLinear(cols, rows, op == "step", dtype=p.values.dtype, topology=p.topology), p, op)


_PRODUCTS, _STEP = ("forward", "input_gradient"), ("step",)

# The first one is what the others are divided by.
PEERS = (
    Peer("dense", OPS, dense, **TORCH, dtypes=("float32", "float64", "bfloat16")),
    Peer("dense-compiled", _STEP, _compiled, **TORCH, dtypes=("float32", "float64", "bfloat16")),
    Peer("dense-bf16", _STEP, _dense_bf16, **TORCH, **BF16),
    Peer("masked", OPS, _masked, **TORCH, dtypes=("float32", "float64", "bfloat16")),
    Peer("torch-csr", OPS, _torch_csr, **TORCH, dtypes=("float32", "float64")),
    Peer("mkl", _PRODUCTS, partial(_mkl, column_major=False), version=mkl.version, missing=mkl.missing),
    Peer("mkl-column", _PRODUCTS, partial(_mkl, column_major=True), version=mkl.version, missing=mkl.missing),
    Peer("scipy", _PRODUCTS, _scipy, **package("scipy"), dtypes=("float32", "float64")),
    Peer("sparseprop", ("forward", "step"), _sparseprop, **package("sparseprop", needs=("scipy",))),
    Peer("sparsekern-csr", OPS, partial(kernel, name="sparse_linear"), **OURS),
    Peer("sparsekern-tiled", OPS, partial(kernel, name="sparse_linear", views=TILES), **OURS),
    Peer("sparsekern-expanded", OPS, partial(kernel, name="expanded_linear", views=PACKED), **OURS),
    Peer("sparsekern", OPS, _layer, **OURS),
    Peer("sparsekern-bf16", _STEP, partial(_layer, build=own_layer_in_bf16), **BF16_OURS),
)

"""Every implementation of a sparse convolution on a CPU.

A result comes in a layout that the next layer can use, contiguous or channels_last; only SparseProp's batch-vectorised
mode is spared the transposes of its output and input gradient. What a fixed pattern allows to prepare once is prepared
outside of the time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import conv2d

from ..nn import SparseConv2d
from ..topology import CSC, PACKED
from .case import OPS
from .peer import (
    BF16,
    BF16_OURS,
    OURS,
    TORCH,
    Implementation,
    Peer,
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


def _dense(p: Problem, op: str, layout: torch.memory_format) -> Implementation:
    x, dy, weight = (t.contiguous(memory_format=layout) for t in (p.x, p.dy, p.dense))
    forward = partial(conv2d, stride=p.layer.stride, padding=p.layer.padding)
    calls = {
        "forward": lambda: forward(x, weight),
        "input_gradient": lambda: gradient(p, dy, x, weight, 0),
        "weight_gradient": lambda: gradient(p, dy, x, weight, 1),
    }
    return Implementation(calls[op] if op != "step" else step(forward, p, weight, x, dy), size(weight))


def _compiled(p: Problem, op: str) -> Implementation:
    forward = compiled(conv2d, p.layer.shape, p.layer.batch, p.layer.dtype)
    call = partial(forward, stride=p.layer.stride, padding=p.layer.padding)
    return Implementation(step(call, p, p.dense), size(p.dense))


def _dense_bf16(p: Problem, op: str) -> Implementation:
    narrow = in_bf16(p)
    x, dy, weight = (t.contiguous(memory_format=torch.channels_last) for t in (narrow.x, narrow.dy, p.dense))
    forward = autocast(partial(conv2d, stride=p.layer.stride, padding=p.layer.padding))
    return Implementation(step(forward, p, weight, x, dy), size(weight))


def _masked(p: Problem, op: str) -> Implementation:
    x, dy, weight, mask = p.x, p.dy, p.dense, p.mask.to(p.dense.dtype)
    forward = partial(conv2d, stride=p.layer.stride, padding=p.layer.padding)
    calls = {
        "forward": lambda: forward(x, weight * mask),
        "input_gradient": lambda: gradient(p, dy, x, weight * mask, 0),
        "weight_gradient": lambda: gradient(p, dy, x, weight, 1).mul_(mask),
    }
    whole = partial(step, lambda x, weight, bias: forward(x, weight * mask, bias), p, weight)
    return Implementation(calls[op] if op != "step" else whole(), size(weight, mask))


def gradient(p: Problem, dy: Tensor, x: Tensor, weight: Tensor, which: int) -> Tensor:
    """Returns the dense gradient of the input (0) or of the weight (1)."""
    stride, padding = [p.layer.stride] * 2, [p.layer.padding] * 2
    needed = [which == 0, which == 1, False]
    return torch.ops.aten.convolution_backward(dy, x, weight, None, stride, padding, [1, 1], False, [0, 0], 1, needed)[
        which
    ]


def geometry_of(layer: Any) -> tuple:
    """Returns kernel, stride, padding, dilation and groups, as the operators take them."""
    return [layer.kernel] * 2, [layer.stride] * 2, [layer.padding] * 4, [1, 1], 1


def _sparseprop(p: Problem, op: str, width: bool) -> Implementation:
    from sparseprop.modules.conv2d import SparseConv2d as Layer  # type: ignore[import-not-found]

    bias = Parameter(p.bias.clone()) if op == "step" else None
    layer = Layer(p.dense, bias, p.layer.padding, p.layer.stride, vectorizing_over_on=width)
    held = size(layer.W_val, *layer.W_idx)
    if op == "forward":
        return Implementation(torch.no_grad()(lambda: layer(p.x)), held)
    return Implementation(layer_step(layer, p, layer.W_val), held)


def kernel(p: Problem, op: str, name: str, views: frozenset[str] = CSC) -> Implementation:
    """Builds an operation on an operator and its backward, on the views of the pattern that the layer would hold."""
    index, values, layer = p.topology.with_views(views).index, p.values, p.layer
    geometry = geometry_of(layer)
    forward, backward = getattr(torch.ops.sparsekern, name), getattr(torch.ops.sparsekern, f"{name}_backward")
    calls = {
        "forward": lambda: forward(p.x, values, index, None, *geometry),
        "input_gradient": lambda: backward(p.dy, p.x, values, index, True, False, False, *geometry)[0],
        "weight_gradient": lambda: backward(p.dy, p.x, values, index, False, True, False, *geometry)[1],
    }
    whole = partial(step, lambda x, values, bias: forward(x, values, index, bias, *geometry), p, values)
    return Implementation(calls[op] if op != "step" else whole(), size(values, *index))


def _layer(p: Problem, op: str, build: Callable[..., Implementation] = own_layer) -> Implementation:
    conv = p.layer
    channels = (conv.in_channels, conv.out_channels, conv.kernel, conv.stride, conv.padding)
    layer = SparseConv2d(*channels, bias=op == "step", dtype=p.values.dtype, topology=p.topology)
    return build(layer, p, op)


_SPARSEPROP = package("sparseprop", needs=("scipy",))
_STEP = ("step",)
_ALL = ("float32", "float64", "bfloat16")

# The first one is what the others are divided by.
PEERS = (
    Peer("dense", OPS, partial(_dense, layout=torch.contiguous_format), **TORCH, dtypes=_ALL),
    Peer("dense-channels-last", OPS, partial(_dense, layout=torch.channels_last), **TORCH, dtypes=_ALL),
    Peer("dense-channels-last-bf16", _STEP, _dense_bf16, **TORCH, **BF16),
    Peer("dense-compiled", _STEP, _compiled, **TORCH, dtypes=_ALL),
    Peer("masked", OPS, _masked, **TORCH, dtypes=_ALL),
    Peer("sparseprop", ("forward", "step"), partial(_sparseprop, width=False), **_SPARSEPROP),
    Peer("sparseprop-width", ("forward", "step"), partial(_sparseprop, width=True), **_SPARSEPROP),
    Peer("sparsekern-csr", OPS, partial(kernel, name="sparse_conv2d"), **OURS),
    Peer("sparsekern-expanded", OPS, partial(kernel, name="expanded_conv2d", views=PACKED), **OURS),
    Peer("sparsekern", OPS, _layer, **OURS),
    Peer("sparsekern-bf16", _STEP, partial(_layer, build=own_layer_in_bf16), **BF16_OURS),
)

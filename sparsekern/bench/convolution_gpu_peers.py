"""Every implementation of a sparse convolution on a GPU, on images and weights that lie channels_last.

`dense` is cuDNN; the others are those of linear layers.
"""

from functools import partial

import torch
from torch.nn.functional import conv2d

from .convolution_peers import geometry_of, gradient, kernel
from .linear_gpu_peers import DTYPES, OPS
from .peer import OURS, TORCH, Implementation, Peer, size
from .problem import Problem


def _dense(p: Problem, op: str) -> Implementation:
    x, dy, weight = p.x, p.dy, p.dense.contiguous(memory_format=torch.channels_last)
    calls = {
        "forward": lambda: conv2d(x, weight, None, p.layer.stride, p.layer.padding),
        "input_gradient": lambda: gradient(p, dy, x, weight, 0),
        "weight_gradient": lambda: gradient(p, dy, x, weight, 1),
    }
    return Implementation(calls[op], size(weight))


def _masked(p: Problem, op: str) -> Implementation:
    x, dy = p.x, p.dy
    master, mask = (t.contiguous(memory_format=torch.channels_last) for t in (p.master, p.mask))
    calls = {
        "forward": lambda: conv2d(x, master * mask, None, p.layer.stride, p.layer.padding),
        "input_gradient": lambda: gradient(p, dy, x, master * mask, 0),
        "weight_gradient": lambda: gradient(p, dy, x, master, 1) * mask,
    }
    return Implementation(calls[op], size(master, mask))


def _fused(p: Problem, op: str) -> Implementation:
    x, dy, index, geometry = p.x, p.dy, p.topology.index, geometry_of(p.layer)
    master = p.master.contiguous(memory_format=torch.channels_last)
    forward, backward = torch.ops.sparsekern.masked_conv2d, torch.ops.sparsekern.masked_conv2d_backward
    calls = {
        "forward": lambda: forward(x, master, index, None, *geometry, False),
        "input_gradient": lambda: backward(dy, x, master, index, True, False, False, *geometry, True)[0],
        "weight_gradient": lambda: backward(dy, x, master, index, False, True, False, *geometry, True)[1],
    }
    return Implementation(calls[op], size(master, index.segment_ptr, index.bits))


# The first one is what the others are divided by.
GPU_PEERS = (
    Peer("dense", OPS, _dense, **TORCH, dtypes=DTYPES),
    Peer("masked", OPS, _masked, **TORCH, dtypes=DTYPES),
    Peer("sparsekern-expanded", OPS, partial(kernel, name="expanded_conv2d"), **OURS),
    Peer("sparsekern-bits", OPS, partial(kernel, name="sparse_conv2d"), **OURS),
    Peer("sparsekern-fused", OPS, _fused, **OURS),
)

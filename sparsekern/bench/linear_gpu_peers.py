"""Every implementation of the SpMM and SDDMM of a linear layer on a GPU.

`dense` is cuBLAS, `masked` multiplies by a bool mask what has other entries, `sparsekern-expanded` writes the dense
weight first, `sparsekern-bits` goes by the bitmask, `sparsekern-fused` masks a dense weight inside of the product.
"""

from functools import partial

import torch

from ..topology import CSC
from .linear_peers import dense, kernel
from .peer import OURS, TORCH, Implementation, Peer, size
from .problem import Problem

OPS = ("forward", "input_gradient", "weight_gradient")
DTYPES = ("bfloat16", "float32")


def _masked(p: Problem, op: str) -> Implementation:
    x, dy, master, mask = p.x, p.dy, p.master, p.mask
    calls = {
        "forward": lambda: torch.nn.functional.linear(x, master * mask),
        "input_gradient": lambda: dy @ (master * mask),
        "weight_gradient": lambda: (dy.t() @ x) * mask,
    }
    return Implementation(calls[op], size(master, mask))


def _fused(p: Problem, op: str) -> Implementation:
    x, dy, master, index = p.x, p.dy, p.master, p.topology.index
    forward, backward = torch.ops.sparsekern.masked_linear, torch.ops.sparsekern.masked_linear_backward
    calls = {
        "forward": lambda: forward(x, master, index, None, False),
        "input_gradient": lambda: backward(dy, x, master, index, True, False, False, False)[0],
        "weight_gradient": lambda: backward(dy, x, master, index, False, True, False, True)[1],
    }
    return Implementation(calls[op], size(master, index.segment_ptr, index.bits))


def _torch_csr(p: Problem, op: str) -> Implementation:
    row_ptr, col, x = p.topology.row_ptr, p.topology.col, p.x
    csr = torch.sparse_csr_tensor(row_ptr, col, p.values, p.topology.shape)
    return Implementation(lambda: (csr @ x.t()).t(), size(p.values, row_ptr, col))


# The first one is what the others are divided by.
GPU_PEERS = (
    Peer("dense", OPS, dense, **TORCH, dtypes=DTYPES),
    Peer("masked", OPS, _masked, **TORCH, dtypes=DTYPES),
    Peer("sparsekern-expanded", OPS, partial(kernel, name="expanded_linear", views=CSC), **OURS),
    Peer("sparsekern-bits", OPS, partial(kernel, name="sparse_linear", views=CSC), **OURS),
    Peer("sparsekern-fused", OPS, _fused, **OURS),
    Peer("torch-csr", ("forward",), _torch_csr, **TORCH, dtypes=DTYPES),
)

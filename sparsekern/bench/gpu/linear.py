"""The products of a linear layer."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from .case import Case, held, weight

_ops = torch.ops.sparsekern


def linear_cases(shape: tuple[int, int, int], sparsity: float, dtype: torch.dtype, device: torch.device) -> list[Case]:
    cols, rows, batch = shape
    topology, values, master = weight((rows, cols), sparsity, dtype, device)
    dense, mask = topology.dense(values), topology.mask()
    x, dy = torch.randn(batch, cols, device=device).to(dtype), torch.randn(batch, rows, device=device).to(dtype)
    index, at = topology.index, topology.coordinates()
    csr = torch.sparse_csr_tensor(topology.row_ptr, topology.col[: topology.nnz], values[: topology.nnz], (rows, cols))
    make = partial(Case, dtype=dtype, sparsity=sparsity, batch=batch, bytes=held(topology, values, dense))

    def backward(op: str, i: int) -> Callable[[], Tensor]:
        needs = [k == i for k in range(3)]
        return lambda: getattr(_ops, f"{op}_backward")(dy, x, values, index, *needs)[i]

    def forward(op: str) -> Callable[[], Tensor]:
        return lambda: getattr(_ops, op)(x, values, index, None, rows)

    forwards = {
        "dense": lambda: functional.linear(x, dense),
        "masked": lambda: functional.linear(x, master * mask),
        "sparsekern-expanded": forward("expanded_linear"),
        "sparsekern-bits": forward("sparse_linear"),
        "sparsekern-fused": lambda: _ops.masked_linear(x, master, index, None, False),
        "torch-csr": lambda: (csr @ x.t()).t(),
    }
    inputs = {
        "dense": lambda: dy @ dense,
        "masked": lambda: dy @ (master * mask),
        "sparsekern-expanded": backward("expanded_linear", 0),
        "sparsekern-bits": backward("sparse_linear", 0),
        "sparsekern-fused": lambda: _ops.masked_linear_backward(dy, x, master, index, True, False, False, False)[0],
    }
    weights = {
        "dense": lambda: dy.t() @ x,
        "masked": lambda: (dy.t() @ x) * mask,
        "sparsekern-expanded": backward("expanded_linear", 1),
        "sparsekern-bits": backward("sparse_linear", 1),
        "sparsekern-fused": lambda: _ops.masked_linear_backward(dy, x, master, index, False, True, False, True)[1],
    }
    name = f"{cols}x{rows}"
    return [
        make(f"forward {name}", calls=forwards, expected=lambda: [x.double() @ dense.double().t()]),
        make(f"input_gradient {name}", calls=inputs, expected=lambda: [dy.double() @ dense.double()]),
        make(
            f"weight_gradient {name}",
            calls=weights,
            expected=lambda: [dy.double().t() @ x.double()],
            at=at,
        ),
    ]

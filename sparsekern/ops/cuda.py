"""Registers the operators on CUDA tensors: functions of `ops.triton`, of the CUDA extension, or their reference.

An operator that is not named here and that csrc/cuda does not register runs as its reference.
"""

import importlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .library import OPERATORS, library

# The operators with a function of their name in ops/triton, in the file that has the name of theirs in ops.
TRITON = (
    *("expand", "collect", "expand_bits", "bit_index", "segment_index", "compress_mask", "topk_mask", "kth_largest"),
    *("sampled_conv2d_gradient", "gradient_moment", "conv2d_gradient_moment", "snr_update", "score_step"),
    *("masked_linear", "masked_linear_backward", "masked_conv2d", "masked_conv2d_backward"),
    *("sparse_linear", "sparse_linear_backward", "sparse_conv2d", "sparse_conv2d_backward"),
)
# Those that take float64, too: they copy, or leave its products to PyTorch.
FLOAT64 = (
    *("expand", "collect", "expand_bits", "bit_index"),
    *("sparse_linear", "sparse_linear_backward", "sparse_conv2d", "sparse_conv2d_backward"),
)


@cache
def kernel(name: str) -> Callable[..., Any]:
    """Returns the Triton function of an operator."""
    return getattr(importlib.import_module(f".triton.{OPERATORS[name].module}", __package__), name)


def _register(name: str) -> None:
    plain = OPERATORS[name].reference

    def call(*arguments: Any) -> Any:
        # Tensor cores and the kernels around them know no float64.
        listed = [item for a in arguments for item in (a if isinstance(a, list) else (a,))]
        wide = name not in FLOAT64 and any(isinstance(a, Tensor) and a.dtype == torch.float64 for a in listed)
        return plain(*arguments) if wide else kernel(name)(*arguments)

    library.impl(name, call, "CUDA")


if find_spec("triton") is not None:
    for _name in TRITON:
        _register(_name)

"""What the operators are on CUDA tensors: functions of `ops.triton`, of the CUDA extension, or their reference.

An operator that is not named here and that csrc/cuda does not register runs as its reference.
"""

import importlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from . import reference, reference_conv, reference_masked, reference_moment
from .schema import library

# The file of ops/triton that holds the function of the operator's name.
TRITON = {
    "expand": "expand",
    "collect": "expand",
    "expand_bits": "expand",
    "bit_index": "expand",
    "tile_index": "pattern",
    "compress_mask": "pattern",
    "topk_mask": "topk_mask",
    "kth_largest": "topk_mask",
    "sampled_conv2d_gradient": "sampled_conv2d_gradient",
    "gradient_moment": "gradient_moment",
    "conv2d_gradient_moment": "conv2d_gradient_moment",
    "snr_update": "snr_update",
    "score_step": "score_step",
    "masked_linear": "masked_linear",
    "masked_linear_backward": "masked_linear",
    "masked_conv2d": "masked_conv2d",
    "masked_conv2d_backward": "masked_conv2d",
    "sparse_linear": "sparse_linear",
    "sparse_linear_backward": "sparse_linear",
    "sparse_conv2d": "sparse_conv2d",
    "sparse_conv2d_backward": "sparse_conv2d",
}
REFERENCES = (reference, reference_conv, reference_masked, reference_moment)
# Those that take float64, too: they copy, or leave its products to PyTorch.
FLOAT64 = frozenset(name for name, file in TRITON.items() if file in ("expand", "sparse_linear", "sparse_conv2d"))


@cache
def kernel(name: str) -> Callable[..., Any]:
    """The Triton function of an operator."""
    return getattr(importlib.import_module(f".triton.{TRITON[name]}", __package__), name)


def _register(name: str) -> None:
    plain = next(vars(module)[name] for module in REFERENCES if name in vars(module))

    def call(*arguments: Any) -> Any:
        # Tensor cores and the kernels around them know no float64.
        listed = [item for a in arguments for item in (a if isinstance(a, list) else (a,))]
        wide = name not in FLOAT64 and any(isinstance(a, Tensor) and a.dtype == torch.float64 for a in listed)
        return plain(*arguments) if wide else kernel(name)(*arguments)

    library.impl(name, call, "CUDA")


if find_spec("triton") is not None:
    for _name in TRITON:
        _register(_name)

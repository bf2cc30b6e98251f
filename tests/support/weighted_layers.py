"""Layers with a weight to read and write, of each storage and product."""

from typing import Any

import torch
from torch import Tensor

import sparsekern as sk

LAYERS: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {
    "sparse linear": (sk.SparseLinear, (12, 8), (3, 12)),
    "sparse conv": (sk.SparseConv2d, (4, 6, 3), (2, 4, 5, 5)),
    "masked linear": (sk.MaskedLinear, (12, 8), (3, 12)),
    "masked conv": (sk.MaskedConv2d, (4, 6, 3), (2, 4, 5, 5)),
}


def make(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Any, Tensor]:
    kind, arguments, shape = LAYERS[name]
    return kind(*arguments, sparsity=0.7, dtype=dtype, **options), torch.randn(shape, dtype=dtype)

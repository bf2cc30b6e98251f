"""Operators on flat tensors: autograd, `torch.compile` without graph breaks, one name for every backend.

`index` is `Topology.index`; the layout is described in `schema`.
"""

import torch

from . import autograd, reference, schema
from .backend import extension

_ops = torch.ops.sparsekern

sparse_linear = _ops.sparse_linear
expanded_linear = _ops.expanded_linear
sampled_gradient = _ops.sampled_gradient
guided_sample = _ops.guided_sample
rewire = _ops.rewire
transpose_index = _ops.transpose_index
tile_index = _ops.tile_index
topk_mask = _ops.topk_mask
kth_largest = _ops.kth_largest

__all__ = ["autograd", "extension", "reference", "schema"]

"""Operators on flat tensors: autograd, `torch.compile` without graph breaks, one name for every backend.

`index` is `Topology.index`; the layout is described in `schema`.
"""

from . import autograd, reference, schema
from .backend import extension
from .linear import expanded_linear, sparse_linear
from .pattern import compress, coordinates, random_subset, rewire, tile_index, transpose_index
from .selection import guided_sample, kth_largest, sampled_gradient, topk_mask

__all__ = [
    "autograd",
    "compress",
    "coordinates",
    "expanded_linear",
    "extension",
    "guided_sample",
    "kth_largest",
    "random_subset",
    "reference",
    "rewire",
    "sampled_gradient",
    "schema",
    "sparse_linear",
    "tile_index",
    "topk_mask",
    "transpose_index",
]

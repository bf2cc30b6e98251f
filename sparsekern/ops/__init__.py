"""Operators on flat tensors: autograd, `torch.compile` without graph breaks, one name for every backend.

`index` is `Topology.index`; the layout is described in `schema`.
"""

from . import autograd, reference, reference_conv, schema
from .backend import extension
from .conv import expanded_conv2d, sampled_conv2d_gradient, sparse_conv2d
from .linear import expanded_linear, sparse_linear
from .masked import active_values, straight_through
from .pattern import compress, coordinates, random_subset, rewire, tile_index, transpose_index
from .selection import guided_sample, kth_largest, sampled_gradient, topk_mask

__all__ = [
    "active_values",
    "autograd",
    "compress",
    "coordinates",
    "expanded_conv2d",
    "expanded_linear",
    "extension",
    "guided_sample",
    "kth_largest",
    "random_subset",
    "reference",
    "reference_conv",
    "rewire",
    "sampled_conv2d_gradient",
    "sampled_gradient",
    "schema",
    "sparse_conv2d",
    "sparse_linear",
    "straight_through",
    "tile_index",
    "topk_mask",
    "transpose_index",
]

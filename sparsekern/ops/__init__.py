"""Operators on flat tensors: autograd, `torch.compile` without graph breaks, one name for every backend.

`index` is `Topology.index`; the layout is described in `schema`.
"""

from . import autograd, cuda, fakes, flops, host, reference, reference_conv, reference_masked, reference_moment, schema
from .backend import extension
from .conv import expanded_conv2d, masked_conv2d, sampled_conv2d_gradient, sparse_conv2d
from .linear import expanded_linear, masked_linear, sparse_linear
from .masked import active_values, dense_weight, straight_through
from .moment import conv2d_gradient_moment, gradient_moment, score_step, snr_update
from .pattern import bit_index, compress, compress_mask, coordinates, random_subset, rewire, tile_index, transpose_index
from .selection import guided_sample, kth_largest, sampled_gradient, topk_mask

__all__ = [
    "active_values",
    "autograd",
    "bit_index",
    "compress",
    "compress_mask",
    "conv2d_gradient_moment",
    "coordinates",
    "cuda",
    "dense_weight",
    "expanded_conv2d",
    "expanded_linear",
    "extension",
    "fakes",
    "flops",
    "gradient_moment",
    "guided_sample",
    "host",
    "kth_largest",
    "masked_conv2d",
    "masked_linear",
    "random_subset",
    "reference",
    "reference_conv",
    "reference_masked",
    "reference_moment",
    "rewire",
    "sampled_conv2d_gradient",
    "sampled_gradient",
    "schema",
    "score_step",
    "snr_update",
    "sparse_conv2d",
    "sparse_linear",
    "straight_through",
    "tile_index",
    "topk_mask",
    "transpose_index",
]

"""Operators on flat tensors: autograd, `torch.compile` without graph breaks, one name for every backend.

`library` says where the parts of an operator are; `index` names the tensors that `Topology.index` holds.
"""

from .backend import extension
from .bit_index import bit_columns, bit_index, bit_mask, bit_pointers, common_bits, drop_bits, mask_bits
from .compact_columns import compact_columns
from .compress import compress, compress_mask, coordinates
from .conv2d_gradient_moment import conv2d_gradient_moment
from .expand import active_values, dense_weight
from .gradient_moment import gradient_moment
from .guided_sample import guided_sample
from .masked_conv2d import masked_conv2d
from .masked_linear import masked_linear
from .move_entries import move_entries
from .narrow_pattern import narrow_pattern
from .positions import positions
from .random_subset import random_subset
from .rewire import rewire
from .sampled_conv2d_gradient import sampled_conv2d_gradient
from .sampled_gradient import sampled_gradient
from .score_step import score_step
from .segment_index import segment_index
from .snr_update import snr_update
from .sparse_conv2d import expanded_conv2d, sparse_conv2d
from .sparse_linear import expanded_linear, sparse_linear
from .straight_through import straight_through
from .tile_pattern import tile_pattern
from .topk_mask import kth_largest, topk_bits, topk_mask
from .transpose_index import transpose_index

# isort: split
# These look up the operators that the files above have defined.
from . import autograd as autograd
from . import cuda as cuda
from . import flops as flops
from . import host as host

# Their old names, until 0.3.
tile_index = segment_index
tile_columns = compact_columns

__all__ = [
    "active_values",
    "bit_columns",
    "bit_index",
    "bit_mask",
    "bit_pointers",
    "common_bits",
    "compact_columns",
    "compress",
    "compress_mask",
    "conv2d_gradient_moment",
    "coordinates",
    "dense_weight",
    "drop_bits",
    "expanded_conv2d",
    "expanded_linear",
    "extension",
    "gradient_moment",
    "guided_sample",
    "kth_largest",
    "mask_bits",
    "masked_conv2d",
    "masked_linear",
    "move_entries",
    "narrow_pattern",
    "positions",
    "random_subset",
    "rewire",
    "sampled_conv2d_gradient",
    "sampled_gradient",
    "score_step",
    "segment_index",
    "snr_update",
    "sparse_conv2d",
    "sparse_linear",
    "straight_through",
    "tile_pattern",
    "topk_bits",
    "topk_mask",
    "transpose_index",
]

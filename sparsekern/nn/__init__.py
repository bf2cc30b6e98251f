"""Layers with a sparsity pattern, and the conversion of models."""

from .attention import SplitAttention
from .channels.groups import ChannelGroup, channel_groups
from .channels.shrink import shrink
from .channels.zeros import ZeroChannels
from .conv import SparseConv2d
from .conv1d import MaskedConv1d, SparseConv1d
from .conversion.convert import densify, masked_twin, matching, prunable_layers, sparse_twin
from .conversion.coverage import Weights
from .conversion.exchange import exchange, took_part
from .conversion.registry import register_layer
from .flops import Flops, flops
from .layer import PatternLayer
from .linear import SparseLinear
from .masked import MaskedConv2d, MaskedLayer, MaskedLinear
from .memory import MemoryReport, memory_report
from .probe import Probe
from .semi_structured import semi_structured
from .sparse import SparseLayer

__all__ = [
    "ChannelGroup",
    "Flops",
    "MaskedConv1d",
    "MaskedConv2d",
    "MaskedLayer",
    "MaskedLinear",
    "MemoryReport",
    "PatternLayer",
    "Probe",
    "SparseConv1d",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "SplitAttention",
    "Weights",
    "ZeroChannels",
    "channel_groups",
    "densify",
    "exchange",
    "flops",
    "masked_twin",
    "matching",
    "memory_report",
    "prunable_layers",
    "register_layer",
    "semi_structured",
    "shrink",
    "sparse_twin",
    "took_part",
]

"""Sparse training of neural networks that saves time and memory: the zeros are neither stored nor multiplied."""

from . import process as process  # before the imports that take time

# isort: split
from . import moved as moved
from . import ops
from .nn import (
    Flops,
    MaskedConv2d,
    MaskedLinear,
    MemoryReport,
    SparseConv2d,
    SparseLinear,
    densify,
    flops,
    memory_report,
)
from .nn.channels.shrink import shrink
from .sparsity import Method, Sparsifier, methods, sparsify
from .topology import SparseWeight, Topology

__version__ = "0.1.0"

__all__ = [
    "Flops",
    "MaskedConv2d",
    "MaskedLinear",
    "MemoryReport",
    "Method",
    "SparseConv2d",
    "SparseLinear",
    "SparseWeight",
    "Sparsifier",
    "Topology",
    "densify",
    "flops",
    "memory_report",
    "methods",
    "ops",
    "shrink",
    "sparsify",
]

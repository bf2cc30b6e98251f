"""The public names of the package, which `import sparsekern` gives."""

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

"""The public names of the package, which `import sparsekern` gives."""

from . import ops
from .nn import (
    Flops,
    MaskedConv1d,
    MaskedConv2d,
    MaskedLinear,
    MemoryReport,
    SparseConv1d,
    SparseConv2d,
    SparseLinear,
    densify,
    flops,
    memory_report,
    register_layer,
    semi_structured,
)
from .nn.channels.shrink import shrink
from .sparse_weight import SparseWeight
from .sparsity import Method, Sparsifier, methods, sparsify
from .topology import Topology

__all__ = [
    "Flops",
    "MaskedConv1d",
    "MaskedConv2d",
    "MaskedLinear",
    "MemoryReport",
    "Method",
    "SparseConv1d",
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
    "register_layer",
    "semi_structured",
    "shrink",
    "sparsify",
]

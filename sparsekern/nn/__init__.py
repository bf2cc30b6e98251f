"""Layers that hold their nonzeros only, and the conversion of models."""

from .conv import SparseConv2d
from .convert import densify, prunable_layers, sparse_twin, swap
from .layer import SparseLayer
from .linear import SparseLinear
from .memory import MemoryReport, memory_report
from .probe import Probe

__all__ = [
    "MemoryReport",
    "Probe",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "densify",
    "memory_report",
    "prunable_layers",
    "sparse_twin",
    "swap",
]

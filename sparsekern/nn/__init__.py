"""Layers that hold their nonzeros only, and the conversion of models."""

from .convert import densify, prunable_layers, swap
from .linear import SparseLinear
from .memory import MemoryReport, memory_report
from .probe import Probe

__all__ = ["MemoryReport", "Probe", "SparseLinear", "densify", "memory_report", "prunable_layers", "swap"]

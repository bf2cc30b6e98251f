"""Methods: which weights exist, and when that changes."""

from . import distributions, methods, schedules, scores, views
from .growth import Growth
from .method import Method
from .report import Report
from .site import Site
from .sparsifier import Sparsifier
from .start import sparsify

__all__ = [
    "Growth",
    "Method",
    "Report",
    "Site",
    "Sparsifier",
    "distributions",
    "methods",
    "schedules",
    "scores",
    "sparsify",
    "views",
]

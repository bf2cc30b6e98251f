"""Methods: which weights exist, and when that changes."""

from . import criteria, distributions, methods, schedules, scopes, scores, views
from .growth import Growth
from .method import Method
from .report import Report
from .rule import Rule
from .site import Site
from .sparsifier import Sparsifier
from .start import sparsify

__all__ = [
    "Growth",
    "Method",
    "Report",
    "Rule",
    "Site",
    "Sparsifier",
    "criteria",
    "distributions",
    "methods",
    "schedules",
    "scopes",
    "scores",
    "sparsify",
    "views",
]

"""Methods: which weights exist, and when that changes."""

from . import methods
from .engine.report import Report
from .growth.growth import Growth
from .method import Method
from .parts import distributions, schedules, scopes, scores, views
from .parts import scores as criteria
from .rule import Rule
from .sites.nonzeros import NonzerosSite, Site
from .sparsifier import Sparsifier
from .sparsify import sparsify

__all__ = [
    "Growth",
    "Method",
    "NonzerosSite",
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

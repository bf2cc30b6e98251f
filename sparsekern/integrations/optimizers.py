"""Finds a `Sparsifier` where a trainer has wrapped it."""

from __future__ import annotations

from typing import Any

from ..sparsity import Sparsifier


def sparsifier_in(optimizer: Any) -> Sparsifier | None:
    """Returns the `Sparsifier` inside the wrappers of an optimizer, of accelerate say."""
    while optimizer is not None and not isinstance(optimizer, Sparsifier):
        optimizer = vars(optimizer).get("optimizer")
    return optimizer


def sparsity_of(sparsifier: Sparsifier) -> float:
    """Returns the fraction of absent weights in the layers that a method drives."""
    nnz, size = (sum(getattr(site, what) for site in sparsifier.sites) for what in ("nnz", "size"))
    return 1 - nnz / max(1, size)

"""The common part of the callbacks of trainers: the `Sparsifier` in its wrappers, and the mean loss of an epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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


class EpochLoss:
    """The mean of the losses since the epoch began. Nothing waits for the device before it is asked for.

    A checkpoint holds `state()`, so that a run that is resumed within an epoch counts all of it.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def add(self, loss: Tensor) -> None:
        exact = torch.float32 if loss.device.type == "mps" else torch.float64
        self.total = loss.detach().to(exact).mean() + self.total
        self.count += 1

    def take(self) -> float:
        """Returns the mean, and begins anew."""
        mean = float(self.total) / self.count
        self.clear()
        return mean

    def state(self) -> dict[str, Any]:
        return {"total": float(self.total), "count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        self.total, self.count = float(state["total"]), int(state["count"])

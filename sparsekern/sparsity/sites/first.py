"""The pattern that a layer began with, of which reports say how much is left."""

from __future__ import annotations

from typing import Any

import torch

from ...topology import PACKED, Topology


class FirstPattern:
    """A pattern that the layer has or had."""

    def __init__(self, pattern: Topology) -> None:
        self._pattern = pattern

    def alone(self) -> FirstPattern:
        """Returns the same in the smaller of two forms: columns, of four bytes, or on the CPU a bit for every entry."""
        pattern = self._pattern
        packs = pattern.device.type == "cpu" and 32 * pattern.nnz > pattern.rows * pattern.cols
        return FirstPattern(pattern.with_views(PACKED if packs else frozenset()))

    @classmethod
    def of(cls, topology: Topology) -> FirstPattern | None:
        """Returns that of a layer; None for one that has all weights."""
        return None if topology.nnz == topology.rows * topology.cols else cls(topology)

    @classmethod
    def loaded(cls, state: tuple[Any, Any] | None, active: Topology) -> FirstPattern | None:
        """Returns that of a `state`, on the device of the active pattern.

        Raises:
            ValueError: this is no pattern of such a shape.
        """
        return None if state is None else cls(Topology(active.shape, *state).to(active.device)).alone()

    def state(self) -> tuple[Any, Any]:
        return self._pattern.row_ptr, self._pattern.col[: self._pattern.nnz]

    def common(self, active: Topology) -> int:
        """Returns how many entries another pattern has in common with it."""
        return int(torch.isin(active.coordinates(), self._pattern.coordinates(), assume_unique=True).sum())

    def __len__(self) -> int:
        return self._pattern.nnz

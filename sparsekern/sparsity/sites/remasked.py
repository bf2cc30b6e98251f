"""Sites whose next pattern is given by a mask: all their weights are kept, not the active ones only."""

from typing import Any

from torch import Tensor

from ... import ops
from ...topology import Topology
from .site import LayerSite


class Remasked(LayerSite):
    """A layer whose next pattern is given by a mask.

    The mask in use is kept, one byte a weight, and compared with the next one."""

    _mask: tuple[Tensor, Tensor] | None = None  # the row pointers that it belongs to, and the mask

    def kept(self) -> list[Tensor]:
        return [*super().kept(), *(() if self._mask is None else self._mask[1:])]

    def _remember(self, mask: Tensor) -> None:
        self._mask = self.active.row_ptr, mask

    def state(self) -> dict[str, Any]:
        return {**super().state(), "capacity": self.active.capacity, "compared": self._mask is not None}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._mask = None
        if state.get("compared"):
            self._remember(self.active.mask())

    def shared(self, mask: Tensor) -> Tensor:
        """Returns how many weights a mask and the one in use have in common, 0-d int64."""
        if self._mask is None or self._mask[0] is not self.active.row_ptr:
            self._remember(self.active.mask())
        return ops.host.count(mask & self._mask[1])  # type: ignore[index]

    def _next(self, mask: Tensor, nnz: int, common: int, capacity: int) -> Topology | None:
        """Returns the pattern of a mask of `nnz` weights, None if it is the one in use.

        The capacity stays as it is unless it is too small or more than twice `capacity`."""
        old = self.active
        if nnz == common == old.nnz:
            return None
        room = old.capacity if nnz <= old.capacity <= 2 * capacity else capacity
        return Topology.from_mask(mask, capacity=room, nnz=nnz)

"""Sites whose next pattern is given by a mask: all their weights are kept, not the active ones only."""

import torch
from torch import Tensor

from ... import ops
from ...topology import Topology
from .layer_site import LayerSite


class Remasked(LayerSite):
    """A layer whose next pattern is given by a mask: bool of the weight's shape, or a bitmask `[rows, segments]`."""

    def shared(self, mask: Tensor) -> Tensor:
        """Returns how many weights a mask and the one in use have in common, 0-d int64."""
        if mask.dtype == torch.int64:
            return ops.common_bits(self.active.bits, mask)
        return ops.host.count(self.active.mask().logical_and_(mask))

    def _next(self, mask: Tensor, nnz: int, common: int, capacity: int) -> Topology | None:
        """Returns the pattern of a mask of `nnz` weights, None if it is the one in use.

        The capacity stays as it is unless it is too small or more than twice `capacity`."""
        old = self.active
        if nnz == common == old.nnz:
            return None
        fits = nnz <= old.capacity <= 2 * capacity
        capacity = old.capacity if fits else capacity
        if mask.dtype == torch.int64:
            return Topology.from_bits(mask, old.shape, capacity=capacity, nnz=nnz)
        return Topology.from_mask(mask, capacity=capacity, nnz=nnz)

"""Moves the weights of a layer when its pattern changes: within their own tensors or, where the room changes, to new
ones.

Within a tensor weights move as a transaction commits, by calls that can't fail: what memory they need is there.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ...topology import Topology

Fill = Any  # a number, or a tensor of one
Filled = tuple[Tensor, Fill]

CHUNK = 1 << 15  # so many weights move at once where weights are only dropped


class Scratch:
    """Memory that all moves of a transaction share, for tensors of up to `size` elements."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._held: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def like(self, tensor: Tensor, size: int) -> Tensor:
        key = tensor.dtype, tensor.device
        if key not in self._held:
            self._held[key] = torch.empty(self.size, dtype=tensor.dtype, device=tensor.device)
        return self._held[key][:size]

    @cached_property
    def places(self) -> Tensor:
        """Positions on the CPU, int64 `[size, 1]`."""
        return torch.empty(self.size, 1, dtype=torch.int64)


class Moves(Protocol):
    """Where the weights of a layer go. Tensors are vectors `[capacity]`; each comes with what new weights and slack get
    in it.

    Attributes:
        room: elements of `Scratch` that `calls` needs.
    """

    room: int

    def calls(self, tensors: Sequence[Filled], scratch: Scratch) -> Iterator[partial]:
        """Yields the calls that move the weights within these tensors."""
        ...

    def moved(self, tensor: Tensor, fill: Fill, capacity: int) -> Tensor:
        """Returns what becomes of a tensor where there is other room, a new one `[capacity]`."""
        ...


class Exchanged:
    """Some weights went, others came.

    Args:
        index_map: int32 `[capacity]`, the old position of each new weight, -1 for what has grown and for slack.
        nnz: how many weights there are.
    """

    def __init__(self, index_map: Tensor, nnz: int) -> None:
        used = index_map[:nnz]
        self._grown = used < 0
        self._source = used.clamp(min=0)
        self.room = nnz

    def calls(self, tensors: Sequence[Filled], scratch: Scratch) -> Iterator[partial]:
        for tensor, fill in tensors:
            if self.room:
                moved = scratch.like(tensor, self.room)
                yield partial(torch.index_select, tensor, 0, self._source, out=moved)
                yield partial(torch.Tensor.masked_fill_, moved, self._grown, fill)
                yield partial(torch.Tensor.copy_, tensor[: self.room], moved)
            yield partial(torch.Tensor.fill_, tensor[self.room :], fill)

    def moved(self, tensor: Tensor, fill: Fill, capacity: int) -> Tensor:
        moved = torch.empty(capacity, dtype=tensor.dtype, device=tensor.device)
        if tensor.numel():
            torch.index_select(tensor, 0, self._source, out=moved[: self.room])
        moved[: self.room].masked_fill_(self._grown, fill)
        moved[self.room :].fill_(fill)
        return moved


class Dropped:
    """Of the weights, on the CPU, only some stay: they move up, a chunk at a time.

    Args:
        keep: bool `[nnz]`, which of the weights stay.
    """

    def __init__(self, keep: Tensor) -> None:
        self._keep, self.room = keep, min(CHUNK, keep.numel())

    def calls(self, tensors: Sequence[Filled], scratch: Scratch) -> Iterator[partial]:
        places, end = scratch.places, 0
        for begin in range(0, self._keep.numel(), CHUNK):
            keep = self._keep[begin : begin + CHUNK]
            stay = int(keep.count_nonzero())
            first, end = end, end + stay
            if not stay or end == begin + len(keep):  # none of them, or all, where they are already
                continue
            yield partial(torch.nonzero_static, keep, size=stay, out=places[:stay])
            for tensor, _ in tensors:
                moved, chunk = scratch.like(tensor, stay), tensor[begin : begin + CHUNK]
                yield partial(torch.index_select, chunk, 0, places[:stay].view(-1), out=moved)
                yield partial(torch.Tensor.copy_, tensor[first:end], moved)
        for tensor, fill in tensors:
            yield partial(torch.Tensor.fill_, tensor[end:], fill)

    def moved(self, tensor: Tensor, fill: Fill, capacity: int) -> Tensor:
        raise NotImplementedError("weights are dropped before room is given back")


class Resized:
    """All weights stay, in other room. `nnz`: how many there are."""

    def __init__(self, nnz: int) -> None:
        self._nnz, self.room = nnz, 0

    def calls(self, tensors: Sequence[Filled], scratch: Scratch) -> Iterator[partial]:
        return iter(())

    def moved(self, tensor: Tensor, fill: Fill, capacity: int) -> Tensor:
        moved = torch.empty(capacity, dtype=tensor.dtype, device=tensor.device)
        moved[: self._nnz].copy_(tensor[: self._nnz])
        moved[self._nnz :].fill_(fill)
        return moved


def rewired(old: Topology, keep: Tensor, grow: Tensor, capacity: int, kept: int) -> tuple[Topology, Moves]:
    """Returns the pattern that drops and grows weights, as `Topology.rewire` does, and where the weights go."""
    if capacity == old.capacity and not grow.numel() and keep.device.type == "cpu":
        return old.drop(keep, kept=kept), Dropped(keep)
    topology, index_map = old.rewire(keep, grow, capacity=capacity, kept=kept)
    return topology, Exchanged(index_map, topology.nnz)

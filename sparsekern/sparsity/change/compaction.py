"""Drops and grows weights within the memory that they have, on the CPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import bit_mask, extension, mask_bits
from ...private_torch import without_python
from ...shards import is_sharded, whole
from .transaction import Transaction

WIDEST = 8  # bytes of an element that can be moved


class Marks(NamedTuple):
    """Marks of `size` entries: `bits`, a bitmask of one row."""

    bits: Tensor
    size: int

    @classmethod
    def of(cls, marks: Tensor) -> Marks:
        """Packs a bool vector."""
        return cls(mask_bits(marks.view(1, -1)), marks.numel())

    def bools(self) -> Tensor:
        return bit_mask(self.bits, self.size)[0]


class Compaction:
    """Moves the weights that stay to the front of a layer's tensors, in their order; those that grow come between them.

    They move when the transaction commits, so that no tensor ever exists twice.

    Args:
        change: the transaction.
        keep: which entries stay.
        capacity: how many entries the tensors have afterwards.
        old: which of those in use afterwards are the ones that stay; None: all, nothing grows.
    """

    def __init__(self, change: Transaction, keep: Marks, capacity: int, old: Marks | None = None) -> None:
        self._change, self._keep, self._capacity = change, keep, capacity
        self._old = Marks(keep.bits.new_empty(1, 0), 0) if old is None else old

    def __call__(self, tensor: Tensor, fill: float | Tensor) -> Tensor:
        """Returns what becomes of a tensor of as many entries or more, with `fill` where none of them is: itself, its
        front or, if there is no other way, a new one."""
        if not _movable(tensor):
            return self._copied(tensor, fill)
        entries = tensor.detach().view(-1)
        if self._capacity > len(entries):
            moved = entries.new_empty(self._capacity)
            self.into(entries, moved, fill)
            return moved
        front = entries[: self._capacity].detach()
        if entries.data_ptr() not in self._change.moved:  # there are optimizers that hold the same memory twice
            self._change.moved.add(entries.data_ptr())
            self.into(entries, front, fill)
        return tensor if tensor.shape == front.shape else front

    def into(self, source: Tensor, target: Tensor, fill: float | Tensor = 0.0) -> None:
        """Puts the entries of `source` that stay into `target` `[capacity]`, which may be the front of it."""
        if not _movable(source) or not _movable(target) or source.dtype != target.dtype:
            self._change.copy(target, self._copied(source, fill))
            return
        empty = torch.as_tensor(fill, dtype=target.dtype, device="cpu")
        marks = *self._keep, *self._old
        self._change.call(without_python(torch.ops.sparsekern.move_entries), source, target.detach(), *marks, empty)

    def _copied(self, tensor: Tensor, fill: float | Tensor) -> Tensor:
        tensor = whole(tensor.detach())
        moved = tensor.new_empty(self._capacity)
        moved[:] = fill
        stays = tensor.reshape(-1)[: self._keep.size][self._keep.bools()]
        if self._old.size:
            moved[: self._old.size][self._old.bools()] = stays
        else:
            moved[: stays.numel()] = stays
        return moved


def _movable(tensor: Tensor) -> bool:
    """Returns whether entries can be moved in the memory of a tensor by a compiled operator."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.is_contiguous() and not tensor.is_inference()
    return plain and extension is not None and tensor.element_size() <= WIDEST


def trim(tensors: list[Tensor]) -> None:
    """Gives back the memory behind the end of each tensor, and takes it off the list. The tensors stay the same."""
    while tensors:
        tensor = tensors[-1]
        if tensor.device.type == "cpu" and not is_sharded(tensor) and tensor.untyped_storage().nbytes() > tensor.nbytes:
            tensor.data = tensor.detach().clone()
        tensors.pop()

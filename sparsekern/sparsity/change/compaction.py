"""Drops weights within the memory that they have, on the CPU."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ...shards import is_sharded, whole
from .transaction import Transaction

# So many entries move at once: as many as `masked_select` takes without memory of its own.
CHUNK = (1 << 15) - 1


class Compaction:
    """Moves the weights that stay to the front of a layer's tensors, in their order.

    They move when the transaction commits, a few at a time, so that no tensor ever exists twice.

    Args:
        change: the transaction.
        keep: bool `[n]`, which entries stay; `kept` of them are True.
        capacity: how many entries the tensors have afterwards.
    """

    def __init__(self, change: Transaction, keep: Tensor, kept: int, capacity: int) -> None:
        self._change, self._keep, self._kept, self._capacity = change, keep, kept, capacity
        self._marks = keep.split(CHUNK)
        self._counts = [int(mark.count_nonzero()) for mark in self._marks]

    def __call__(self, tensor: Tensor, fill: float | Tensor) -> Tensor:
        """Returns what becomes of a tensor of `n` entries or more, with `fill` behind those that stay: itself, its
        front or, if there is no other way, a new one."""
        if not _plain(tensor):
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
        if not _plain(source) or not _plain(target):
            self._change.copy(target, self._copied(source, fill))
            return
        scratch, target = self._change.scratch(CHUNK, source.dtype), target.detach()
        moves, start, end = source.data_ptr() != target.data_ptr(), 0, 0
        for entries, mark, count in zip(source[: len(self._keep)].split(CHUNK), self._marks, self._counts, strict=True):
            start, end = end, end + count
            moves |= count < len(mark)  # up to here all are where they belong
            if moves and count:
                self._change.call(partial(torch.masked_select, entries, mark, out=scratch[:count]))
                self._change.call(torch.Tensor.copy_, target[start:end], scratch[:count])
        self._change.call(torch.Tensor.fill_, target[end:], fill)

    def _copied(self, tensor: Tensor, fill: float | Tensor) -> Tensor:
        tensor = whole(tensor.detach())
        moved = tensor.new_empty(self._capacity)
        moved[: self._kept] = tensor.reshape(-1)[: len(self._keep)][self._keep]
        moved[self._kept :] = fill
        return moved


def _plain(tensor: Tensor) -> bool:
    """Returns whether a tensor can be written to, entry after entry in the order of memory."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.is_contiguous() and not tensor.is_inference()


def trim(tensors: list[Tensor]) -> None:
    """Gives back the memory behind the end of each tensor, and takes it off the list. The tensors stay the same."""
    while tensors:
        tensor = tensors[-1]
        if tensor.device.type == "cpu" and not is_sharded(tensor) and tensor.untyped_storage().nbytes() > tensor.nbytes:
            tensor.data = tensor.detach().clone()
        tensors.pop()

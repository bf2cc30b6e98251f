"""Copies of layers, such as those in an average of the model: whether they keep up with a pattern that changes.

An average of weights over a change of pattern must move with it, or values of different weights are mixed. A copy that
was never written to is a snapshot, and one that got a gradient is trained by itself: these two need not follow.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .effective import WeightAccess

_copies: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Any]] = weakref.WeakKeyDictionary()
_marks: weakref.WeakKeyDictionary[Any, Tensor] = weakref.WeakKeyDictionary()  # of copies, as they last were in step


def note(layer: WeightAccess, twin: WeightAccess) -> None:
    """Remembers that `twin` is a copy of `layer`."""
    if twin.stored.is_meta:
        return
    _copies.setdefault(layer, weakref.WeakSet()).add(twin)
    _marks[twin] = fingerprint(twin.stored)
    if twin.stored.requires_grad:
        twin.stored.register_post_accumulate_grad_hook(Release(twin))


class Release:
    """The hook that releases a copy when it gets a gradient."""

    def __init__(self, twin: WeightAccess) -> None:
        self.twin = weakref.ref(twin)

    def __call__(self, _: Tensor) -> None:
        release(self.twin())


def release(twin: WeightAccess | None) -> None:
    """Forgets that a layer is a copy."""
    if twin is not None:
        _marks.pop(twin, None)
        twin.outdated = False


def synchronized(twin: WeightAccess) -> None:
    """Notes that a state dict gave the copy weights together with their pattern."""
    if twin in _marks:
        _marks[twin] = fingerprint(twin.stored)
        twin.outdated = False


@contextmanager
def moved(twin: WeightAccess) -> Iterator[None]:
    """A change of device or dtype within it does not count as written weights."""
    kept = twin in _marks and not written(twin)
    yield
    if kept:
        _marks[twin] = fingerprint(twin.stored)


def of(layer: WeightAccess) -> Iterator[WeightAccess]:
    """The copies of a layer that are neither gone nor released."""
    return (twin for twin in list(_copies.get(layer, ())) if twin in _marks)


def written(twin: WeightAccess) -> bool:
    """Returns whether the weights of a copy were changed since it last agreed with the layer."""
    return twin in _marks and not torch.equal(_marks[twin], fingerprint(twin.stored))


def fingerprint(weight: Tensor) -> Tensor:
    """Returns the sum of the weight's bits as integers, int64, 0-d: another weight hardly has the same."""
    kind = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    return weight.detach().contiguous().view(kind).sum(dtype=torch.int64)

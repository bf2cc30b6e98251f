"""Copies of layers, such as those in an average of the model: whether they keep up with a pattern that changes.

An average of weights over a change of pattern must move with it, or values of different weights are mixed. A copy that
was never written to is a snapshot, and one that an optimizer trains goes its own way: these two need not follow. A
gradient alone tells nothing: a teacher may get one that nobody uses.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from .effective import WeightAccess

_copies: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Any]] = weakref.WeakKeyDictionary()
_marks: weakref.WeakKeyDictionary[Any, Tensor] = weakref.WeakKeyDictionary()  # of copies, as they last were in step
_twins: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # copies, by the id of their Parameter
_saved: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # layers, by where their weights lie


def note(layer: WeightAccess, twin: WeightAccess) -> None:
    """Remembers that `twin` is a copy of `layer`."""
    if twin.stored.is_meta:
        return
    _copies.setdefault(layer, weakref.WeakSet()).add(twin)
    _marks[twin] = fingerprint(twin.stored)
    _twins[id(twin.stored)] = twin


def saved(layer: WeightAccess) -> None:
    """Remembers that a state dict holds the weights of a layer: whoever loads them gets a copy."""
    if type(layer.stored) is nn.Parameter:  # neither sharded nor without memory
        _saved[layer.stored.data_ptr()] = layer


def source_of(weight: Tensor | None) -> WeightAccess | None:
    """Returns the layer whose memory these weights are, as in a state dict that was not copied."""
    if weight is None or type(weight) not in (Tensor, nn.Parameter) or weight.is_meta or not weight.numel():
        return None
    layer = _saved.get(weight.data_ptr())
    same = layer is not None and type(layer.stored) is nn.Parameter and layer.stored.data_ptr() == weight.data_ptr()
    return layer if same else None


def _trained(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Releases the copies that an optimizer has trained."""
    if not _marks:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            twin = _twins.get(id(parameter))
            if twin is not None and twin.stored is parameter and parameter.grad is not None:
                release(twin)


register_optimizer_step_post_hook(_trained)


def release(twin: WeightAccess | None) -> None:
    """Forgets that a layer is a copy."""
    if twin is not None:
        _marks.pop(twin, None)
        twin.outdated = False


def synchronized(twin: WeightAccess, source: WeightAccess | None) -> None:
    """Notes that a state dict gave a layer weights together with their pattern: those of `source`, if that is known."""
    if source is not None and source is not twin:
        note(source, twin)
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
    if twin not in _marks or _marks[twin].is_meta or twin.stored.is_meta:  # tensors of meta have no values
        return False
    return not torch.equal(_marks[twin], fingerprint(twin.stored))


def fingerprint(weight: Tensor) -> Tensor:
    """Returns the sum of the weight's bits as integers, int64, 0-d: another weight hardly has the same."""
    kind = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    return weight.detach().contiguous().view(kind).sum(dtype=torch.int64)

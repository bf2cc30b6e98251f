"""Copies of layers, such as those in an average of the model: whether they keep up with a pattern that changes.

An average of weights over a change of pattern must move with it, or values of different weights are mixed. A copy that
was never written to is a snapshot, and one that an optimizer trains goes its own way: these two need not follow. A
gradient alone tells nothing: a teacher may get one that nobody uses.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

if TYPE_CHECKING:
    from .layer import PatternLayer

_copies: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Any]] = weakref.WeakKeyDictionary()
_marks: weakref.WeakKeyDictionary[Any, Tensor] = weakref.WeakKeyDictionary()  # of copies, as they last were in step
_by_weight: weakref.WeakValueDictionary[int, Any] = (
    weakref.WeakValueDictionary()
)  # copies, by the id of their Parameter
_saved: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # layers, by where their weights lie


def note(layer: PatternLayer, copy: PatternLayer) -> None:
    """Remembers that `copy` is a copy of `layer`."""
    if copy.stored.is_meta:
        return
    _copies.setdefault(layer, weakref.WeakSet()).add(copy)
    _mark(copy)


def _mark(copy: PatternLayer) -> None:
    _marks[copy] = fingerprint(copy.stored)
    _by_weight[id(copy.stored)] = copy


def saved(layer: PatternLayer) -> None:
    """Remembers that a state dict holds the weights of a layer: whoever loads them gets a copy."""
    if type(layer.stored) is nn.Parameter:  # neither sharded nor without memory
        _saved[layer.stored.data_ptr()] = layer


def source_of(weight: Tensor | None) -> PatternLayer | None:
    """Returns the layer whose memory these weights are, as in a state dict that was not copied."""
    if weight is None or type(weight) not in (Tensor, nn.Parameter) or weight.is_meta or not weight.numel():
        return None
    layer = _saved.get(weight.data_ptr())
    same = layer is not None and type(layer.stored) is nn.Parameter and layer.stored.data_ptr() == weight.data_ptr()
    return layer if same else None


def _trained(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Releases the copies that an optimizer has trained."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            copy = _by_weight.get(id(parameter))
            if copy is not None and copy.stored is parameter and parameter.grad is not None:
                release(copy)


register_optimizer_step_post_hook(_trained)


def release(copy: PatternLayer | None) -> None:
    """Forgets that a layer is a copy."""
    if copy is not None:
        _marks.pop(copy, None)
        copy.outdated = False


def synchronized(copy: PatternLayer, source: PatternLayer | None) -> None:
    """Notes that a state dict gave a layer weights together with their pattern: those of `source`, if that is known."""
    if source is not None and source is not copy:
        note(source, copy)
    if copy in _marks:
        _mark(copy)
        copy.outdated = False


@contextmanager
def moved(copy: PatternLayer) -> Iterator[None]:
    """A change of device or dtype within it does not count as written weights."""
    kept = copy in _marks and not written(copy)
    yield
    if kept:
        _mark(copy)


def of(layer: PatternLayer) -> Iterator[PatternLayer]:
    """The copies of a layer that are neither gone nor released."""
    return (copy for copy in list(_copies.get(layer, ())) if copy in _marks)


def check(layer: PatternLayer) -> None:
    """Refuses to compute with weights that were written to a copy, as those of another pattern."""
    if layer.outdated and written(layer):
        raise RuntimeError(
            f"this {type(layer).__name__} is a copy that got weights of another pattern than it has: averages of a "
            "model whose pattern changes (EMA, SWA) must be given to Sparsifier(followers=)"
        )


def written(copy: PatternLayer) -> bool:
    """Returns whether the weights of a copy were changed since it last agreed with the layer."""
    if copy not in _marks or _marks[copy].is_meta or copy.stored.is_meta:  # tensors of meta have no values
        return False
    return not torch.equal(_marks[copy], fingerprint(copy.stored))


def fingerprint(weight: Tensor) -> Tensor:
    """Returns the sum of the weight's bits as integers, int64, 0-d: another weight hardly has the same."""
    kind = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    return weight.detach().contiguous().view(kind).sum(dtype=torch.int64)

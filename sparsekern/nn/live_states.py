"""State dicts that are kept while training goes on, as in `best = model.state_dict()`.

Their tensors are the model's own, as those of any PyTorch module: what they hold is the model as it is now. A change of
pattern moves weights within this memory or leaves it, so that it hands these tensors the new weights and their pattern.
Where a dense weight makes way for its nonzeros, the entry becomes empty, and is refused when it is loaded.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..topology import Topology
from .layer import PatternLayer

_entries: weakref.WeakKeyDictionary[Any, list[tuple[weakref.ref, ...]]] = weakref.WeakKeyDictionary()
_tensor: Any = Tensor
_become = _tensor.data.__set__  # `set_` refuses detached tensors


def note(layer: PatternLayer, weight: Tensor, row_ptr: Tensor, col: Tensor) -> None:
    """Remembers what a state dict holds of a layer."""
    alive = [refs for refs in _entries.get(layer, ()) if any(ref() is not None for ref in refs)]
    _entries[layer] = [*alive, tuple(map(weakref.ref, (weight, row_ptr, col)))]


def renewals(layer: PatternLayer, old: Topology, draft: PatternLayer) -> list[partial]:
    """Returns calls of C functions that give the state dicts of a layer what they would hold of its `draft`, which has
    another pattern than the `old` one."""
    topology, calls = draft.topology, []
    if topology is old or layer not in _entries:
        return calls
    settles = layer.WEIGHT != draft.WEIGHT
    for weight, row_ptr, col in (tuple(ref() for ref in refs) for refs in _entries[layer]):
        if type(weight) is Tensor:  # neither the Parameter itself nor sharded
            now = weight.new_empty(0) if settles else draft.saved_weight(draft.stored.detach())
            calls.append(partial(_become, weight, now))
        if row_ptr is not None:
            calls.append(partial(_become, row_ptr, topology.row_ptr.clone()))
        if col is not None:
            calls.append(partial(_become, col, topology.col[: topology.nnz].clone()))
    if settles:  # the entries have another name from now on
        calls.append(partial(list.clear, _entries[layer]))
    return calls


def check(weight: Tensor) -> None:
    """Raises a `ValueError` if the entry of a state dict is that of a dense weight that is no more."""
    if not weight.numel():
        raise ValueError(
            "the state dict shares its tensors with a model whose layers have come to hold their nonzeros only since: "
            "copy.deepcopy(model.state_dict()) stays as it is"
        )


@torch.no_grad()
def rejoin(layer: PatternLayer) -> None:
    """Lets the state dicts of a layer have its weight where that lies now."""
    for ref, *_ in _entries.get(layer, ()):
        weight = ref()
        if type(weight) is Tensor and weight.data_ptr() != layer.stored.data_ptr():
            weight.data = layer.saved_weight(layer.stored.detach())


@torch.no_grad()
def renew(layer: PatternLayer, old: Topology) -> None:
    """Renews the state dicts of a layer that has got another pattern than the `old` one."""
    for call in renewals(layer, old, layer):
        call()

"""State dicts that are kept while training goes on, as in `best = model.state_dict()`.

Their tensors are the model's own, as those of any PyTorch module: what they hold is the model as it is now. A change of
pattern moves weights within this memory or leaves it, so that it hands these tensors the new weights and their pattern.
Tensors that share no memory with the model any more, since it went to another device, stay as they are. Where a dense
weight makes way for its nonzeros, the entry becomes empty, and is refused when it is loaded.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..shards import local
from ..topology import Topology

if TYPE_CHECKING:
    from .layer import PatternLayer


class Entries(NamedTuple):
    """The entries of a layer in a state dict. The index is None where nobody has it any more."""

    weight: Tensor
    row_ptr: Tensor | None
    col: Tensor | None


_noted: weakref.WeakKeyDictionary[Any, list[tuple[weakref.ref, ...]]] = weakref.WeakKeyDictionary()
_tensor: Any = Tensor
_become = _tensor.data.__set__  # `set_` refuses detached tensors


def note(layer: PatternLayer, weight: Tensor, row_ptr: Tensor, col: Tensor) -> None:
    """Remembers what a state dict holds of a layer."""
    alive = [refs for refs in _noted.get(layer, ()) if refs[0]() is not None]
    _noted[layer] = [*alive, tuple(map(weakref.ref, (weight, row_ptr, col)))]


@torch.no_grad()
def shared(layer: PatternLayer) -> list[Entries]:
    """Returns the entries of state dicts whose weight lies in the layer's memory."""
    found = []
    for weight, row_ptr, col in (tuple(ref() for ref in refs) for refs in _noted.get(layer, ())):
        if weight is not None and weight.numel() and local(weight).data_ptr() == local(layer.stored).data_ptr():
            found.append(Entries(weight, row_ptr, col))
    return found


def renewals(layer: PatternLayer, old: Topology, draft: PatternLayer) -> list[partial]:
    """Returns calls of C functions that give the state dicts of a layer what they would hold of its `draft`, which has
    another pattern than the `old` one."""
    if layer not in _noted or draft.topology is old:
        return []
    settles, entries = layer.WEIGHT != draft.WEIGHT, shared(layer)
    stays = draft.stored is layer.stored and draft.topology.nnz == old.nnz
    # Nothing can take the place of the Parameter itself, or of a sharded one.
    calls = [call for each in entries if type(each.weight) is Tensor or stays for call in _calls(each, draft, settles)]
    return [*calls, partial(list.clear, _noted[layer])] if settles else calls  # the entries lose their name


def renew(entries: list[Entries], layer: PatternLayer) -> None:
    """Gives entries that have shared a layer's memory what it holds now."""
    with torch.no_grad():
        for each in entries:
            for call in _calls(each, layer, settles=False) if type(each.weight) is Tensor else ():
                call()


def _calls(entries: Entries, draft: PatternLayer, settles: bool) -> list[partial]:
    weight, row_ptr, col = entries
    topology, calls = draft.topology, []
    if type(weight) is Tensor:
        now = weight.new_empty(0) if settles else draft.saved_weight(draft.stored.detach())
        calls.append(partial(_become, weight, now))
    if row_ptr is not None:
        calls.append(partial(_become, row_ptr, topology.row_ptr.clone()))
    if col is not None:
        calls.append(partial(_become, col, topology.col[: topology.nnz].clone()))
    return calls


def end(layer: PatternLayer) -> None:
    """Empties the weights in state dicts of a layer that is about to store its weight under another name."""
    for weight, *_ in shared(layer):
        if type(weight) is Tensor:
            weight.data = weight.new_empty(0)
    _noted.pop(layer, None)


def check(weight: Tensor) -> None:
    """Raises a `ValueError` if the entry of a state dict is that of a dense weight that has been dropped."""
    if not weight.numel():
        raise ValueError(
            "the state dict shares its tensors with a model whose layers have come to hold their nonzeros only since: "
            "copy.deepcopy(model.state_dict()) stays as it is"
        )

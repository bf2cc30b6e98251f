"""A transaction: a change of pattern takes effect as a whole, or not at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ...nn import PatternLayer
from ...nn.live_states import renewals
from ...private_torch import MODULE_CONTENTS, without_overrides
from ...shards import local, sharded_as
from .replaced import Replaced

Layer = TypeVar("Layer", bound=PatternLayer)
Site = TypeVar("Site")
_call: Any = partial.__call__


@torch.no_grad()
def at_once(calls: Sequence[partial]) -> None:
    """Calls functions that are not written in Python, one after another, in a single instruction of the interpreter.

    Signals, and what their handlers raise, come before it or after it, never between two calls."""
    with without_overrides():
        deque(map(_call, calls), maxlen=0)


class Transaction:
    """Collects what a change makes of layers, tensors, dicts, lists and attributes, and exchanges all of it `at_once`.

    Until `commit` nothing is altered that others see: new tensors are made beside the old ones, and layers, dicts and
    lists are changed in drafts. Whatever interrupts a change leaves everything as it was before it or, after the
    commit, as it is after it.

    Attributes:
        moved: where memory begins within which weights move.
        shrunk: tensors that may be the front of a larger memory after the commit, of which no more is needed.
    """

    def __init__(self) -> None:
        self._calls: list[partial] = []
        self._layers: list[tuple[Any, Any, dict[str, Any]]] = []  # layer, draft, what the layer was
        self._contents: dict[int, tuple[Any, Any]] = {}  # of dicts and lists: the original and its draft
        self._sites: list[tuple[Any, Any]] = []  # site, draft
        self.moved: set[int] = set()
        self.shrunk: list[Tensor] = []

    def layer(self, layer: Layer) -> Layer:
        """Returns a draft of a layer, which may get a new pattern, new Parameters or another class.

        Its tensors are the layer's own: only `copy` may write to them. The draft of a draft is the same one."""
        for original, draft, _ in self._layers:
            if layer is original or layer is draft:
                return draft
        draft = object.__new__(type(layer))
        was = dict(vars(layer))
        vars(draft).update(was, **{name: was[name].copy() for name in MODULE_CONTENTS if name in was})
        self._layers.append((layer, draft, was))
        return draft

    def original(self, layer: Layer) -> Layer:
        """Returns the layer that `layer` is a draft of. A layer that is no draft is returned as it is."""
        return next((original for original, draft, _ in self._layers if draft is layer), layer)

    def site(self, site: Site) -> Site:
        """Returns a draft of a site. Its module may be exchanged for a draft, and its statistics for others, which are
        not written to."""
        draft = object.__new__(type(site))
        vars(draft).update({name: dict(value) if type(value) is dict else value for name, value in vars(site).items()})
        vars(draft)["change"] = self
        self._sites.append((site, draft))
        return draft

    def sites(self, sites: Sequence[Site]) -> list[Site]:
        """Returns the sites that drafts, and new sites of drafts of layers, are after the commit."""
        settled = []
        for site in sites:
            original = next((original for original, draft in self._sites if draft is site), site)
            self.assign(original, **{**vars(site), "module": self.original(vars(site)["module"]), "change": None})
            settled.append(original)
        return settled

    def current(self, container: Any) -> Any:
        """Returns what a dict or list holds by now."""
        return self._contents.get(id(container), (None, container))[1]

    def contents(self, container: Any) -> Any:
        """Returns a draft of what a dict or list holds."""
        if id(container) not in self._contents:
            draft = list(container) if isinstance(container, list) else dict(container)
            self._contents[id(container)] = container, draft
        return self._contents[id(container)][1]

    def copy(self, target: Tensor, value: Tensor) -> None:
        """Puts `value` into `target`, which stays the same tensor. Does nothing if they are one. Of a sharded target
        this rank writes its part."""
        if value is target:
            return
        if target.shape != value.shape or target.device != value.device:
            raise ValueError(f"expected a tensor of shape {tuple(target.shape)}, got {tuple(value.shape)}")
        self._calls.append(partial(torch.Tensor.copy_, local(target), local(sharded_as(value, target))))

    def assign(self, owner: Any, **attributes: Any) -> None:
        """Sets attributes of an object that keeps them in its `__dict__`."""
        self._calls.append(partial(dict.update, vars(owner), attributes))

    def call(self, function: Any, *arguments: Any) -> None:
        """Calls a function that is not written in Python and can't fail."""
        self._calls.append(partial(function, *arguments))

    def commit(self) -> None:
        """Exchanges everything that was collected."""
        calls, old = [*self._calls], []
        for layer, draft, was in self._layers:
            calls += _becomes(layer, draft, was) + renewals(layer, was["_topology"], draft)
            old.append(was)
        for container, draft in self._contents.values():
            old.append(list(container.values()) if isinstance(container, dict) else list(container))
            calls += _filled(container, draft)
        at_once(calls)  # what was there before lives until this is over

    def forget(self) -> None:
        """Drops everything, in the drafts, too, which refer to each other: memory is free at once."""
        for _, draft in self._sites:
            vars(draft).clear()
        for held in (self._calls, self._layers, self._contents, self._sites):
            held.clear()


def _becomes(layer: Any, draft: Any, was: dict[str, Any]) -> list[partial]:
    """Returns the calls that turn a layer into its draft."""
    calls, now = [], vars(draft)
    calls += _replaced(was, now)
    for name in MODULE_CONTENTS:
        if name in was and not _same(was[name], now[name]):
            calls += _filled(was[name], now[name])
    own = {name: value for name, value in now.items() if name not in MODULE_CONTENTS}
    changed = {name: value for name, value in own.items() if name not in was or was[name] is not value}
    calls.append(partial(dict.update, vars(layer), changed))
    calls += [partial(dict.pop, vars(layer), name, None) for name in was if name not in now]
    if type(draft) is not type(layer):
        # In place, since optimizer hooks, lists and the user hold the layer itself.
        calls.append(partial(object.__setattr__, layer, "__class__", type(draft)))
    return calls


def _replaced(was: dict[str, Any], now: dict[str, Any]) -> list[partial]:
    """Returns the calls that let the Parameters that a layer loses say so."""
    left = {id(parameter) for parameter in now["_parameters"].values()}
    lost = [p for p in was["_parameters"].values() if type(p) is nn.Parameter and id(p) not in left]
    return [partial(object.__setattr__, parameter, "__class__", Replaced) for parameter in lost]


def _same(left: Any, right: Any) -> bool:
    """Returns whether two dicts hold the same objects, or two sets the same names, in the same order."""
    if isinstance(left, set):
        return left == right
    return list(left) == list(right) and all(left[key] is right[key] for key in left)


def _filled(container: Any, contents: Any) -> list[partial]:
    """Returns the calls that leave `contents` in a container. They are methods of `list`, `dict` and `set` themselves:
    no code of the container's or a key's class runs."""
    if isinstance(container, list):
        return [partial(list.__setitem__, container, slice(None), contents)]
    kind = set if isinstance(container, set) else dict
    return [partial(kind.clear, container), partial(kind.update, container, contents)]

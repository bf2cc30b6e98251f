"""Engines and the layers that they drive: several may share a model, but no layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import nn

WAY = "each drives layers of its own, by sparsify(overrides=) or Sparsifier(layers=)"

_drivers: WeakKeyDictionary[nn.Module, ref[Any]] = WeakKeyDictionary()


def take(engine: Any, sites: Sequence[Any]) -> None:
    """Gives an engine the layers of its sites. Another one that has them may not step any more.

    Raises:
        ValueError: an engine inside it drives one of them.
    """
    inside = {id(site.module): other for other in engine.chain[1:] for site in other.now.sites}
    both = [site.name for site in sites if id(site.module) in inside]
    if both:
        raise ValueError(f"the Sparsifier inside this one drives {', '.join(both)} already: {WAY}")
    for site in sites:
        _drivers[site.module] = ref(engine)


def check(engine: Any, sites: Sequence[Any]) -> None:
    """Raises a `RuntimeError` if another engine has taken a layer since."""
    for site in sites:
        driver = _drivers.get(site.module)
        other = None if driver is None else driver()
        if other is None:  # as of copies
            _drivers[site.module] = ref(engine)
        elif other is not engine:
            raise RuntimeError(f"another Sparsifier, of {other.method.name}, was made for {site.name} since: {WAY}")

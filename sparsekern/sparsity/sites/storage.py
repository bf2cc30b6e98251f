"""Storages: how the layers of a method keep their weights, and what the engine does with them accordingly.

               nonzeros            master                stashed               dense
    layers     SparseLinear, ...   MaskedLinear, ...     SparseLinear, ...     nn.Linear, ...
    kept       active weights      all weights, which    active weights;       all weights
                                   go on learning        the pruned ones as
                                                         they were, aside
    a change   rewires: drops      remasks: moves        remasks: exchanges    never comes
               and grows           nothing               with the stash
    settling   nothing             drops pruned weights  drops the stash       nothing

Settling ends all of them as nonzeros.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from torch import nn

from ...nn import MaskedLayer, PatternLayer, SparseLayer, masked_twin, sparse_twin
from ...topology import Topology
from .layer_site import LayerSite
from .master import MasterSite
from .nonzeros import NonzerosSite
from .stashed import StashedSite

Name = Literal["nonzeros", "master", "stashed", "dense"]


class Change(Protocol):
    """Carries out a change of pattern."""

    def rewire(self, sites: Sequence[Any]) -> None:
        """Drops and grows weights."""

    def remask(self, sites: Sequence[Any]) -> None:
        """Chooses masks over all weights."""


class Storage:
    """A way in which layers keep their weights. A storage equals its name.

    Attributes:
        layer: the class of the layers; `noun` is what an error calls one.
        site: the class of their sites.
        prunes: layers are pruned at all.
        keeps_pruned: a change may bring pruned weights back with their values, so the first pattern may be all weights.
        moves_weights: a change moves weights within their Parameter, and optimizer state must follow.
        sheds: settling exchanges the Parameters for shorter ones.
        until: from this step on the layers hold their nonzeros only, and the pattern is frozen or only loses weights;
            None: never.
        probes_moments: layers record the second moment of the gradients by a probe, as they do for growth.
    """

    name: str
    layer: type[PatternLayer] = SparseLayer
    noun = "sparse layer"
    site: type[LayerSite] = NonzerosSite
    prunes = True
    keeps_pruned = False
    moves_weights = True
    sheds = False
    until: int | None = None
    probes_moments = False

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Storage):
            return self.name == other.name and vars(self) == vars(other)
        return self.name == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return repr(self.name)

    def convert(self, layer: nn.Module, pattern: Topology, backend: str) -> PatternLayer:
        """Returns the layer that takes the place of a dense one."""
        return sparse_twin(layer, pattern, backend)

    def sites(self, modules: Sequence[tuple[str, nn.Module]]) -> list[Any]:
        """Returns a site for each of the modules, by name, that has this storage."""
        return [self.site(name, module) for name, module in modules if isinstance(module, self.layer)]

    def change(self, change: Change, sites: Sequence[Any]) -> None:
        """Carries out a change of pattern by means of `change`."""
        change.remask(sites) if self.keeps_pruned else change.rewire(sites)


class Nonzeros(Storage):
    """Layers hold the active weights; dropped ones are gone."""

    name = "nonzeros"


class Master(Storage):
    """Layers keep a dense weight under a mask: pruned weights go on learning."""

    name = "master"
    layer = MaskedLayer
    noun = "layer with a dense weight and a mask"
    site = MasterSite
    keeps_pruned = True
    moves_weights = False
    sheds = True

    def __init__(self, until: int | None = None) -> None:
        self.until = until

    def convert(self, layer: nn.Module, pattern: Topology, backend: str) -> PatternLayer:
        return masked_twin(layer, pattern, backend)

    def sites(self, modules: Sequence[tuple[str, nn.Module]]) -> list[Any]:
        return super().sites(modules) or NONZEROS.sites(modules)  # of a run whose layers have shed what is pruned


class Stashed(Storage):
    """Layers hold the active weights; pruned ones are stashed as they were."""

    name = "stashed"
    site = StashedSite
    keeps_pruned = True
    probes_moments = True


class Dense(Storage):
    """Nothing is pruned."""

    name = "dense"
    prunes = False


NONZEROS, MASTER, STASHED, DENSE = Nonzeros(), Master(), Stashed(), Dense()
STORAGES = {each.name: each for each in (NONZEROS, MASTER, STASHED, DENSE)}


def storage_by_name(storage: Storage | str) -> Storage:
    """Returns the storage of a name. A storage is returned as it is.

    Raises:
        ValueError: there is none of this name.
    """
    if isinstance(storage, Storage):
        return storage
    if storage == "parked":
        warnings.warn('storage="parked" is called "stashed" now', DeprecationWarning, stacklevel=4)
        return STASHED
    if storage not in STORAGES:
        raise ValueError(f"storage must be one of {', '.join(STORAGES)}, got {storage!r}")
    return STORAGES[storage]

"""The layers of a model as sites, and the optimizer's state of their weights as files hold it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import MaskedLayer, PatternLayer, SparseLayer
from ..topology import Topology
from . import parallel
from .master import MasterSite, ParkedSite
from .method import Method
from .passes import ArmedStep, Batches, GrowthBatches
from .site import LayerSite, Site
from .starts import Loss

KINDS: dict[str, tuple[type[PatternLayer], Any]] = {
    "nonzeros": (SparseLayer, Site),
    "master": (MaskedLayer, MasterSite),
    "parked": (SparseLayer, ParkedSite),
}


def sites_of(model: nn.Module, method: Method) -> list[Any]:
    """A site for every layer of the kind that the method drives.

    Raises:
        ValueError: the model has none.
    """
    kind, site = KINDS["nonzeros" if method.storage == "dense" else method.storage]
    sites = [site(plain(name), layer) for name, layer in model.named_modules() if isinstance(layer, kind)]
    if not sites and method.storage != "dense":
        what = "layer with a dense weight and a mask" if method.storage == "master" else "sparse layer"
        raise ValueError(f"the model has no {what}: call sparsify(model, {method.name}) first")
    return sites


def passes_of(model: nn.Module, method: Method, batches: Batches | None, loss: Loss | None) -> ArmedStep:
    """The backward passes that the method's growth takes its statistics from.

    Raises:
        ValueError: it wants batches of its own, and there are none.
    """
    count = method.grow.batches if method.grow is not None else 1
    if count == 1:
        return ArmedStep(model, watches=method.grow is not None and method.grow.inputs)
    if batches is None or loss is None:
        raise ValueError(
            f"{method.name} grows by the gradients of {count} batches: pass Sparsifier(batches=, loss=), batches an "
            "iterable of (x, y) or a function of the step"
        )
    return GrowthBatches(model, batches, loss, count)


def followers_of(model: nn.Module, sites: Sequence[LayerSite]) -> dict[str, PatternLayer]:
    """The layers of a copy of the model that belong to the sites.

    Raises:
        ValueError: one is missing or has another pattern.
    """
    layers = {plain(name): layer for name, layer in model.named_modules() if isinstance(layer, PatternLayer)}
    for site in sites:
        layer = layers.get(site.name)
        if layer is None or type(layer) is not type(site.module):
            raise ValueError(f"a follower lacks the sparse layer {site.name}: copy it from the model after sparsify")
        if not layer.topology.same_pattern(site.active):
            raise ValueError(f"a follower's {site.name} has another pattern than the model's: copy it again")
    return layers


def plain(name: str) -> str:
    """A module's name without the wrappers of DDP, `AveragedModel` and `torch.compile`."""
    return ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod"))


def share_patterns(sites: Sequence[LayerSite]) -> None:
    """Gives every layer the pattern that it has on rank 0, whose weights `DistributedDataParallel` gave it.

    Raises:
        ValueError: a layer has room for another number of weights there.
    """
    if parallel.ranks() == 1:
        return
    for site in sites:
        own = site.active
        capacity = int(parallel.of_first(torch.tensor([own.capacity], device=own.device)))
        if capacity != own.capacity:
            raise ValueError(
                f"{site.name} has room for {own.capacity} weights on rank {parallel.rank()}, for {capacity} on rank 0: "
                "make it of the same topology on every rank"
            )
        common = Topology(own.shape, parallel.of_first(own.row_ptr), parallel.of_first(own.col))
        if not common.same_pattern(own):
            site.module.set_topology(common)


def check_held(sites: Sequence[LayerSite], optimizer: torch.optim.Optimizer) -> None:
    """Raises a `ValueError` if the optimizer lacks a weight that is to be trained."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [site.name for site in sites if any(p.requires_grad and id(p) not in held for p in site.learned)]
    if missing:
        warn = "was it built before sparsify? Build it from model.parameters() afterwards"
        raise ValueError(f"the optimizer does not hold the sparse weights of {', '.join(missing)}; {warn}")


def check_saved(sites: Sequence[LayerSite], saved: dict[str, Any]) -> None:
    """Raises a `ValueError` if `saved`, the states of sites by name, does not belong to these."""
    if set(saved) != {site.name for site in sites}:
        raise ValueError(f"the state is of a model with the sparse layers {', '.join(saved) or '(none)'}")
    for site in sites:
        if saved[site.name]["nnz"] != site.nnz:
            raise ValueError(
                f"{site.name} has {site.nnz} nonzeros, its state {saved[site.name]['nnz']}: load the state of the "
                "model before that of the sparsifier"
            )


def pack(optimizer: torch.optim.Optimizer, sites: Sequence[LayerSite]) -> dict[str, Any]:
    """The optimizer's state dict, with entries for nonzeros `[nnz]`."""
    state, lengths = optimizer.state_dict(), _lengths(optimizer, sites)
    trimmed = {
        i: {key: _trim(value, *lengths[i]) if i in lengths else value for key, value in own.items()}
        for i, own in state["state"].items()
    }
    return {**state, "state": trimmed}


def unpack(optimizer: torch.optim.Optimizer, sites: Sequence[LayerSite], packed: dict[str, Any]) -> None:
    """Loads what `pack` returned into an optimizer of weights of any capacity."""
    lengths = _lengths(optimizer, sites)
    padded = {
        i: {key: _pad(value, *lengths[i]) if i in lengths else value for key, value in own.items()}
        for i, own in packed["state"].items()
    }
    optimizer.load_state_dict({**packed, "state": padded})


def _lengths(optimizer: torch.optim.Optimizer, sites: Sequence[LayerSite]) -> dict[int, tuple[int, int]]:
    """(nnz, capacity) of every weight that is stored as nonzeros, by its number in the optimizer."""
    own = {id(s.parameter): (s.nnz, s.active.capacity) for s in sites if isinstance(s.module, SparseLayer)}
    order = [p for group in optimizer.param_groups for p in group["params"]]
    return {i: own[id(p)] for i, p in enumerate(order) if id(p) in own}


def _trim(value: Any, nnz: int, capacity: int) -> Any:
    return value[:nnz].clone() if isinstance(value, Tensor) and value.shape == (capacity,) else value


def _pad(value: Any, nnz: int, capacity: int) -> Any:
    if not isinstance(value, Tensor) or value.shape != (nnz,):
        return value
    return torch.cat([value, value.new_zeros(capacity - nnz)])

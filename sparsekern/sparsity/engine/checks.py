"""Checks before a model trains under a method, before a pattern changes, and before a state is loaded."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from ...nn import PatternLayer, SparseLayer, copies, took_part
from ...shards import is_sharded
from ...topology import nnz_at
from .. import parallel
from ..change.optimizer_layout import States, nested
from ..change.transaction import Transaction
from ..method import Method
from ..model.fully_sharded import sharded_layers
from ..model.wrappers import former_name
from ..parts.schedules import final
from ..sites.checksum import checksum
from ..sites.layer_site import LayerSite


def check_network(
    sites: Sequence[LayerSite],
    optimizer: torch.optim.Optimizer,
    method: Method,
    sharders: Sequence[Any] = (),
) -> None:
    """Checks everything before the first step.

    Args:
        sharders: the modules of the model that `fully_shard` was called on.

    Raises:
        ValueError: something does not fit.
    """
    check_held(sites, optimizer)
    check_open(sites, method)
    warn_of_decay(sites, optimizer)
    if method.rule.rewind is not None and len(nested(optimizer)) > 1:
        raise ValueError(
            f"{method.name} returns to the optimizer's state of an earlier step, but {type(optimizer).__name__} "
            "has an optimizer of its own inside it: use one like SGD or Adam alone"
        )
    if method.when.stop > 0:
        check_whole(sites, sharded_layers(sharders))
        if any(is_sharded(site.parameter) for site in sites):
            check_shards(sites, method)
        storage = method.resolved_storage
        if storage.moves_weights or storage.until is not None:
            check_states(sites, States(optimizer))


def check_states(sites: Sequence[LayerSite], states: States) -> None:
    """Raises a `ValueError` if the optimizer keeps something for a weight that could not follow it."""
    states.check({f"{site.name}.{site.module.WEIGHT}": site.parameter for site in sites})


def check_held(sites: Sequence[LayerSite], optimizer: torch.optim.Optimizer) -> None:
    """Raises a `ValueError` if the optimizer lacks a weight that is to be trained."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [
        site.name for site in sites if any(p.requires_grad and id(p) not in held for p in site.weight_parameters)
    ]
    if missing:
        warn = (
            "was it built before sparsify or fully_shard? Build it from model.parameters() afterwards. Where several "
            "optimizers share a model, each has a Sparsifier(layers=) of its own"
        )
        raise ValueError(f"the optimizer does not hold the sparse weights of {', '.join(missing)}; {warn}")


def check_open(sites: Sequence[LayerSite], method: Method) -> None:
    """Raises a `ValueError` if the method looks at what enters and leaves a product that PyTorch hides."""
    hidden = [site.name for site in sites if site.module.inside_recurrence]
    guided = method.grow is not None and method.grow.guided
    if hidden and (guided or method.rule.gradient(0) == "moment"):
        raise ValueError(
            f"{method.name} looks at the inputs and output gradients of every layer, but those of {', '.join(hidden)} "
            "are hidden inside PyTorch's recurrence: leave recurrent layers dense, or take a method that looks at "
            "gradients of weights only"
        )


def check_sparsity(sites: Sequence[LayerSite], method: Method) -> None:
    """Raises a `ValueError` if the layers have another number of weights than a method that keeps it would have.

    Patterns that were given as masks or came with a state dict are as they are, and a weight more or less for each
    layer may be rounding, or as many as a structure takes."""
    keeps = not method.resolved_storage.keeps_pruned and method.sparsity(0) == final(method.sparsity)
    if not keeps or method.start.unit == "channel" or method.start.given:
        return
    if any(site.module.loads or getattr(site.module, "pattern_given", False) for site in sites):
        return
    nnz, size = sum(site.nnz for site in sites), sum(site.size for site in sites)
    expected, structure = nnz_at(method.sparsity(0), size), method.view.structure
    rounding = len(sites) if structure is None else sum(structure.slack(site.shape) for site in sites)
    if abs(nnz - expected) > rounding:
        raise ValueError(
            f"the model has {nnz} of {size} weights, a sparsity of {1 - nnz / size:.4g}, but {method.name} keeps the "
            f"{expected} of a sparsity of {method.sparsity(0):.4g}: make the model by sparsify(model, method) with "
            "this method"
        )


def warn_of_decay(sites: Sequence[LayerSite], optimizer: torch.optim.Optimizer) -> None:
    """Warns if nonzeros are not decayed, but other weights are."""
    own = {id(site.parameter): site.name for site in sites if isinstance(site.module, SparseLayer)}
    groups = optimizer.param_groups
    bare = [own[id(p)] for g in groups if not g.get("weight_decay") for p in g["params"] if id(p) in own]
    if bare and any(group.get("weight_decay") for group in groups):
        warnings.warn(
            f"the optimizer decays no weight of the sparse layers {', '.join(bare)}: a rule that leaves vectors out "
            "leaves out nonzeros, too, which are stored as one. Decay the Parameters with p.dim() > 1 or "
            'name.endswith("values")',
            stacklevel=5,
        )


def check_whole(sites: Sequence[LayerSite], sharded: Sequence[Any] = ()) -> None:
    """Raises a `ValueError` if a weight is not here as a whole, unless it is that of a layer which `fully_shard` has
    `sharded`."""
    for site in sites:
        whole = (site.active.capacity,) if isinstance(site.module, SparseLayer) else site.shape
        strange = is_sharded(site.parameter) and not any(layer is site.module for layer in sharded)
        if strange or site.parameter.shape != whole:
            raise ValueError(
                f"the weight of {site.name} is sharded otherwise than by fully_shard (FSDP2), but its pattern is to "
                "change: call fully_shard on the model or a block of it, leave the layer out of the sharding "
                "(ignored_params, ignored_states), use DistributedDataParallel, or a method whose pattern stays"
            )


def check_shards(sites: Sequence[LayerSite], method: Method) -> None:
    """Raises a `ValueError` if the patterns of sharded weights cannot change as the method wants."""
    why = None
    if method.rule.rewind is not None:
        why = "returns the network to an earlier step, all of which every rank would hold"
    elif method.grow is not None and method.grow.batches > 1:
        why = "grows by gradients of more than one batch"
    elif method.grow is not None and method.grow.inputs:
        why = "grows by the synaptic flow of a copy of the network, all of which every rank would hold"
    if why is not None:
        raise ValueError(
            f"the weights are sharded, but {method.name} {why}: use DistributedDataParallel in the place of "
            "fully_shard, or another method"
        )
    for site in sites:
        parameter: Any = site.parameter
        if not is_sharded(parameter):
            continue
        mesh = parameter.device_mesh
        if mesh.size() != parallel.ranks():
            raise ValueError(
                f"{site.name} is sharded over {mesh.size()} of {parallel.ranks()} ranks, but its pattern is chosen "
                "from sums over all of them: call fully_shard with a mesh of all ranks"
            )
        if parameter.device.type != mesh.device_type or any(p.is_shard() and p.dim for p in parameter.placements):
            raise ValueError(
                f"{site.name} is sharded otherwise than by rows on the devices that compute: leave out offload_policy "
                "and shard_placement_fn of fully_shard for layers whose pattern changes"
            )


def check_order(sites: Sequence[LayerSite], sharders: Sequence[Any]) -> None:
    """Raises a `RuntimeError` if layers were sharded when the optimizer had their weights already."""
    late = [] if sharders else [site.name for site in sites if is_sharded(site.parameter)]
    if late:
        raise RuntimeError(
            f"fully_shard has given {', '.join(late)} other Parameters than the optimizer holds: call it after "
            "sparsify, and before the optimizer and the Sparsifier are built"
        )


def check_ranks(sites: Sequence[LayerSite]) -> None:
    """Raises a `RuntimeError` if the ranks have different weights, for which they would choose different patterns."""
    if parallel.ranks() == 1:
        return
    marks = [copies.fingerprint(site.parameter) for site in sites if not is_sharded(site.parameter)]
    if marks and not parallel.agree(torch.stack([mark.to(marks[0].device) for mark in marks])):
        raise RuntimeError(
            "the pattern is to change, but the ranks have different weights: their gradients are not averaged, or "
            "their optimizers draw different random numbers. Wrap the model in DistributedDataParallel, and seed every "
            "optimizer alike"
        )


def check_copies(sites: Sequence[LayerSite], followers: Sequence[Sequence[PatternLayer]], change: Transaction) -> None:
    """Raises a `RuntimeError` if an average of the model would be left behind. Other copies of a layer are outdated
    after the change."""
    for site, own in zip(sites, followers, strict=True):
        for copied in copies.of(change.original(site.module)):
            if any(copied is follower for follower in own):
                continue
            if copies.written(copied):
                raise RuntimeError(
                    f"a copy of {site.name} has got other weights since it was made, but its pattern does not follow "
                    "the model's: pass an average of the model (EMA, SWA) to Sparsifier(followers=[...]); give a copy "
                    "that is to keep its pattern its weights by load_state_dict"
                )
            change.assign(copied, outdated=True)


def check_reached(sites: Sequence[LayerSite]) -> None:
    """Raises a `RuntimeError` if dense originals of the sites' layers got the gradients of the first step instead."""
    names = [site.name for site in sites if site.parameter.grad is None and took_part(site.module)]
    if names:
        raise RuntimeError(
            f"the dense originals of {', '.join(names)} computed in this step instead of the sparse layers, and do not "
            "learn: something that sparsify does not look into still holds them (an object that is no module, a bound "
            "method). Let it look the layers up in their modules, or leave them dense: sparsify(exclude=)"
        )


def renamed(sites: Sequence[LayerSite], saved: dict[str, Any]) -> dict[str, Any]:
    """Returns the states of layers by today's names. Version 0.1 called some layers otherwise."""
    names = {former_name(site.name): site.name for site in sites}
    if set(saved) == {site.name for site in sites} or set(saved) != set(names) or len(names) < len(sites):
        return saved
    return {names[name]: state for name, state in saved.items()}


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
        pattern = saved[site.name].get("pattern")  # version 0.1 did not say
        if pattern is not None and pattern != checksum(site.active):
            raise ValueError(
                f"{site.name} has another pattern than the state is of: load the state of the model before that of the "
                "sparsifier"
            )

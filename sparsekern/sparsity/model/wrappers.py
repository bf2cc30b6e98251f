"""Finds the model inside wrappers such as `DistributedDataParallel`. Wrappers are known by their class: the model's own
modules may have any name."""

import gc
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ... import private_torch
from ...shards import is_sharded

# The attribute that holds the model, by the full name of the class: most of these need not be installed or imported.
WRAPPERS = {
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    **private_torch.WRAPPERS,
    "timm.utils.model_ema.ModelEmaV2": "module",
    "timm.utils.model_ema.ModelEmaV3": "module",
    "lightning.fabric.wrappers._FabricModule": "_forward_module",
    "lightning_fabric.wrappers._FabricModule": "_forward_module",
}
# Wrappers that hold the Parameters which they were given, and why that is too early before `sparsify`.
HOLDERS = {
    "DistributedDataParallel": "it would go on reducing the dense Parameters, and the ranks would drift apart",
    "DataParallel": "it is wrapped around the finished model",
    "FullyShardedDataParallel": "it has split the dense Parameters already",
    "AveragedModel": "it averages the Parameters of a model that would stay dense",
}


def bare(model: nn.Module) -> nn.Module:
    """Returns the model inside its wrappers."""
    while (held := _held(model)) is not None:
        model = model.get_submodule(held)
    return model


def own_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields `model.named_modules()` as if nothing in it were wrapped."""
    return _own_modules(model, "", set())


def _own_modules(model: nn.Module, name: str, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    model = bare(model)
    if model in seen:
        return
    seen.add(model)
    yield name, model
    for key, child in private_torch.modules(model).items():
        if child is not None:
            yield from _own_modules(child, f"{name}.{key}" if name else key, seen)


def check_free(model: nn.Module) -> None:
    """Raises a `ValueError` if something holds the Parameters that `sparsify` is to exchange."""
    for name, module in model.named_modules():
        kinds = [kind.__name__ for kind in type(module).__mro__ if _full_name(kind) in WRAPPERS]
        for kind in kinds:
            if kind in HOLDERS:
                what = f"{kind} ({name})" if name else kind
                raise ValueError(
                    f"sparsify got a model in {what}: {HOLDERS[kind]}. Sparsify the model inside first, then wrap it: "
                    f"model = {kind}(sparsify(model, method))"
                )
    sharded = [name for name, parameter in model.named_parameters() if is_sharded(parameter)]
    if sharded:
        raise ValueError(
            f"{', '.join(sharded[:3])}{', ...' * (len(sharded) > 3)} are sharded (DTensor): sparsify the model first, "
            "then call fully_shard or distribute it"
        )


def check_managed(model: nn.Module, parameters: list[torch.Tensor]) -> None:
    """Raises a `ValueError` if a `DistributedDataParallel` does not reduce some of `parameters`, which it was wrapped
    around before they existed."""
    managed = private_torch.reduced_parameters(model) if _held(model) == "module" else None
    if managed is None:
        return
    known = {id(parameter) for parameter in managed}
    if any(parameter.requires_grad and id(parameter) not in known for parameter in parameters):
        raise ValueError(
            "DistributedDataParallel was wrapped around the model before sparsify and does not reduce the sparse "
            "weights: sparsify first, then wrap"
        )


def renew_reduction(layers: Sequence[nn.Module]) -> None:
    """Makes every `DistributedDataParallel` around some of `layers` reduce the gradients of the Parameters that they
    have now.

    The wrappers are looked for among all objects: trainers wrap the model when the Sparsifier is made already."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    own = set(layers)
    wrapped = [each for each in gc.get_objects() if issubclass(type(each), DistributedDataParallel)]
    for each in wrapped:
        known = {id(parameter) for parameter in private_torch.reduced_parameters(each) or ()}
        if not own.isdisjoint(each.modules()) and known != {id(p) for p in each.module.parameters()}:
            private_torch.reduce_anew(each)


def former_name(name: str) -> str:
    """Returns the name of a layer in files of version 0.1, which left out what it took for wrappers."""
    return ".".join(part for part in name.split(".") if part not in ("module", private_torch.COMPILED_CHILD))


def _held(module: nn.Module) -> str | None:
    """Returns the attribute under which a wrapper holds a model; None if it is no wrapper."""
    return next((WRAPPERS[name] for kind in type(module).__mro__ if (name := _full_name(kind)) in WRAPPERS), None)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"

"""`sparsify`: gives a network its first pattern."""

import logging
import warnings
from collections.abc import Container, Iterable, Mapping
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..nn import PatternLayer, Weights
from ..nn.conversion.exchange import exchange
from ..nn.conversion.splitting import splitting
from ..nn.kernel_choice import check_backend
from ..private_torch import COMPILED_CHILD, compiled_itself
from ..topology import Topology
from . import parallel
from .first_pattern import Chooser, initialize
from .method import Method
from .model.overrides import Key
from .model.wrappers import check_free
from .parts.distributions import Distribution
from .scoring.network import Batches, Loss
from .selection import CHOSEN, Override, Selection, select, shares_of
from .sites.capacity import capacity_for_growth

log = logging.getLogger("sparsekern")


@splitting
def sparsify(
    model: nn.Module,
    method: Method | float | None = None,
    *,
    distribution: str | Distribution | None = None,
    include: Iterable[str | type[nn.Module]] = (),
    exclude: Iterable[str] = (),
    overrides: Mapping[Key, Override] | None = None,
    masks: dict[str, Tensor] | Literal["nonzero"] | None = None,
    batches: Batches | None = None,
    loss: Loss | None = None,
    backend: str = "auto",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Exchanges the linear layers and convolutions of `model`, in place, for layers that hold their nonzeros only,
    or, for methods whose pruned weights go on learning, a dense master weight; returns the model.

    Build the optimizer afterwards, and wrap the model (`DistributedDataParallel`, `AveragedModel`) afterwards: the
    weights are new Parameters. Weights keep their values, except where a method begins with a random pattern: there
    they are multiplied by sqrt(dense fan-in / fan-in) of their row, since activations would fade from layer to layer
    otherwise (`initialize="keep"` of the method leaves them), or drawn anew for the pattern (`gse_*`). Layers keep
    their names, hooks and attributes, Parameters their attributes and, where the gradient keeps its number of
    dimensions, their hooks; lists, tuples, dicts and sets among the attributes of the model's modules get the new
    layers as well. Which share of the weights became sparse, what stays dense, and why, is logged ("sparsekern", INFO),
    and warned of where more than a tenth stays dense that nobody excluded.

    Args:
        method: a `Method`, or the sparsity of a static random pattern, under which weights keep their values. May be
            left out where masks are given, which then stay as they are (`methods.fixed()`), and where overrides are:
            other layers then stay dense.
        distribution: "uniform", "er", "erk", "global" or a function; how a random pattern is shared by the layers.
            The method's own by default.
        include: names and glob patterns of layers to prune although the method leaves them out (of a ViT `dpf` prunes
            the patch embedding only: `include="*"` takes the linear layers, too); names and classes of layers that are
            left dense by default: embeddings, recurrent layers.
        exclude: names and glob patterns of layers to leave dense, or of modules around them, whatever else is said of
            them.
        overrides: other settings for some layers, by their name or that of a module around them, by a glob that their
            name matches, or by their class or that of a module around them. The value is a sparsity, which the layers
            of this override reach together, shared among them as the method shares its own; None, to leave them dense;
            a `Method` of their own, for a `Sparsifier` of its own; or a mapping with "sparsity" and "distribution".
            The method's sparsity is then that of the other layers. Where several match, names (the nearest) come
            before globs (the first) and globs before classes (the nearest). Names and classes also take layers
            that are left dense by default.
        masks: bool tensors of the weights' shapes by layer name, True where a weight stays; layers without one are
            left dense, but for those of overrides. "nonzero": the zeros of a model that was pruned before stay zero,
            wherever more than 1 % of a layer are. Masks of `torch.nn.utils.prune` and of `torch.ao.pruning` (torchao)
            are read, and removed. What was found is logged for every layer.
        batches, loss: data and `loss(output, target)` (mean over the batch) for methods that score on data; how many
            batches and of what size the method's paper has: `method.start.batches`, `.batch_size`. Each is a pair
            (x, y); the model is called as `model(**x)` if x is a mapping, as `model(*x)` if it is a tuple, as
            `model(x)` otherwise, and the loss gets its output as it is.
        backend: "auto" chooses the kernel of each layer; "sparse", "dense" (products with the expanded weight) and
            "masked" (plain PyTorch on a masked dense weight, to verify against) force one.
        generator: source of all random choices; PyTorch's default one if None.

    Raises:
        ValueError: a sparsity outside [0, 1), a mask of the wrong shape or dtype, an unknown layer, distribution or
            backend, an override that no layer falls under, missing or too few `batches`, no `loss`; a model that is
            wrapped or sharded already, or on the meta device, or has layers without a shape; no layer that can be made
            sparse.

    Examples:
        >>> model = nn.ModuleDict({"conv": nn.Conv2d(1, 8, 3), "body": nn.Linear(64, 64), "head": nn.Linear(64, 10)})
        >>> method = sk.methods.rigl(sparsity=0.9, total_steps=10_000)
        >>> model = sk.sparsify(model, method, overrides={"head": None, "b*": 0.8, nn.Conv2d: 0.5})
    """
    check_backend(backend)
    if isinstance(masks, str) and masks != "nonzero":
        raise ValueError(f'masks must be a dict of bool tensors or "nonzero", got {masks!r}')
    shares = shares_of(method, masks is not None, distribution, overrides or {})
    if all(share.method is None for share in shares.values()):
        return model
    check_free(model)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("the model is on the meta device; give its weights memory (model.to_empty) and values first")
    selection = select(model, shares, masks, include, exclude)
    _check_not_compiled(selection)
    generator = generator or torch.Generator().manual_seed(parallel.shared(int(torch.randint(2**62, ()))))
    chooser = Chooser(model, selection.masks, batches, loss, generator)
    patterns: dict[Key | None, dict[str, Topology]] = {}
    removed: dict[str, Tensor] = {}
    for key, layers in selection.layers.items():
        patterns[key], gone = chooser.patterns(layers, shares[key].driven, shares[key].distribution)
        removed |= gone
    replacements: dict[str, Any] = {}
    for key, layers in selection.layers.items():
        share = shares[key]
        stay = selection.masks if masks == "nonzero" or share.driven.start.initialize == "rescale" else ()
        replacements |= _converted(layers, patterns[key], share.driven, backend, generator, stay)
        for name in layers:
            noted = {"assignment": share.assignment, **({"pattern_given": True} if name in selection.masks else {})}
            vars(replacements[name]).update(noted)
    model = exchange(model, replacements)
    with torch.no_grad():
        for name, gone in removed.items():
            model.get_parameter(name).masked_fill_(gone, 0)
    _tell(model, selection.why)
    return model


def _converted(
    layers: dict[str, nn.Module],
    patterns: dict[str, Topology],
    method: Method,
    backend: str,
    generator: torch.Generator,
    stay: Container[str],
) -> dict[str, Any]:
    """Returns the layers that take the places of those of one share; the weights of those in `stay` keep their
    values."""
    ready = [name for name, layer in layers.items() if not isinstance(layer, PatternLayer)]
    _warn_of_empty({name: patterns[name] for name in ready}, method)
    total = sum(pattern.nnz for pattern in patterns.values())
    replacements = {}
    for name, pattern in patterns.items():
        if method.moves_counts:
            pattern = pattern.with_capacity(capacity_for_growth(pattern.nnz, prod(pattern.shape), total, len(layers)))
        replacements[name] = method.resolved_storage.convert(layers[name], pattern, backend)
        if name in ready and name not in stay:
            initialize(replacements[name], method.start.initialize, generator)
    return replacements


def _check_not_compiled(selection: Selection) -> None:
    layers = {name: layer for own in selection.layers.values() for name, layer in own.items()}
    compiled = [name for name, layer in layers.items() if name.endswith(COMPILED_CHILD) or compiled_itself(layer)]
    if compiled:
        raise ValueError(f"{', '.join(compiled)} are layers compiled by themselves: sparsify first, then compile")


def _tell(model: nn.Module, why: dict[str, str]) -> None:
    """Logs what became sparse and what did not."""
    weights = Weights(model, why)
    log.info("%s", weights)
    if weights.left(CHOSEN) > 0.1:
        warnings.warn(str(weights), stacklevel=4)


def _warn_of_empty(patterns: dict[str, Topology], method: Method) -> None:
    empty = [name for name, pattern in patterns.items() if not pattern.nnz and prod(pattern.shape)]
    if empty:
        drawn = method.start.choose is None
        way = 'distribution="erk" or "er"' if drawn else "min_per_layer=" if method.has_sparsity else ""
        way += " keeps some, " if way else ""
        warnings.warn(
            f"layer collapse: {', '.join(empty)} has no weight left; {way}exclude= leaves the layer dense", stacklevel=5
        )

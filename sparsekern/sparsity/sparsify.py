"""`sparsify`: gives a network its first pattern."""

import logging
import warnings
from collections.abc import Iterable, Sequence
from math import prod
from numbers import Real
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..nn import MaskedLayer, PatternLayer, Weights, matching, prunable_layers
from ..nn.conversion.exchange import exchange
from ..nn.conversion.parts import taking_apart
from ..nn.conversion.registry import sparse_class
from ..nn.kernel_choice import check_backend
from ..private_torch import COMPILED_CHILD, compiled_itself
from ..topology import COLUMNS, PACKED, Topology, kept
from . import parallel
from .method import Method
from .methods.before import fixed
from .model.wrappers import check_free
from .model.zeros import take_zeros
from .parts import distributions
from .parts.distributions import Distribution
from .parts.schedules import constant, final
from .scoring.network import Batches, Initialize, Loss, Network
from .sites.capacity import roomy
from .sites.storage import Storage, named

log = logging.getLogger("sparsekern")
CHOSEN = "left out by exclude or masks"


@taking_apart
def sparsify(
    model: nn.Module,
    method: Method | float | None = None,
    *,
    distribution: str | Distribution | None = None,
    include: Iterable[str | type[nn.Module]] = (),
    exclude: Iterable[str] = (),
    masks: dict[str, Tensor] | Literal["nonzero"] | None = None,
    batches: Batches | None = None,
    loss: Loss | None = None,
    backend: str = "auto",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Exchanges the linear layers and convolutions of `model`, in place, for layers that hold their nonzeros only,
    or, for methods whose pruned weights go on learning, a dense master weight; returns the model.

    Build the optimizer afterwards, and wrap the model (`DistributedDataParallel`, `AveragedModel`) afterwards: the
    weights are new Parameters. Weights keep their values, except where the first pattern is random: there they are
    multiplied by sqrt(dense fan-in / fan-in) of their row, since activations would fade from layer to layer otherwise
    (`initialize="keep"` of the method leaves them), or drawn anew for the pattern (`gse_*`). Layers keep their names,
    hooks and attributes, Parameters their attributes and, where the gradient keeps its number of dimensions, their
    hooks; lists, tuples, dicts and sets among the attributes of the model's modules get the new layers as well. Which
    share of the weights became sparse, what stays dense, and why, is logged ("sparsekern", INFO), and warned of where
    more than a tenth stays dense that nobody excluded.

    Args:
        method: a `Method`, or the sparsity of a static random pattern, as `methods.random` has it. May be left out
            where masks are given, which then stay as they are (`methods.fixed()`).
        distribution: "uniform", "er", "erk", "global" or a function; how a random pattern is shared by the layers.
            The method's own by default.
        include: names and glob patterns of layers to prune although the method leaves them out (of a ViT `dpf` prunes
            the patch embedding only: `include="*"` takes the linear layers, too); names and classes of layers that are
            left dense by default: embeddings, recurrent layers.
        exclude: names and glob patterns of layers to leave dense, or of modules around them.
        masks: bool tensors of the weights' shapes by layer name, True where a weight stays; layers without one are
            left dense. "nonzero": the zeros of a model that was pruned before stay zero, wherever more than 1 % of a
            layer are. Masks of `torch.nn.utils.prune` and of `torch.ao.pruning` (torchao) are read, and removed. What
            was found is logged for every layer.
        batches, loss: data and `loss(output, target)` (mean over the batch) for methods that score on data; how many
            batches and of what size the method's paper has: `method.start.batches`, `.batch_size`. Each is a pair
            (x, y); the model is called as `model(**x)` if x is a mapping, as `model(*x)` if it is a tuple, as
            `model(x)` otherwise, and the loss gets its output as it is.
        backend: "auto" chooses the kernel of each layer; "sparse", "dense" (products with the expanded weight) and
            "masked" (plain PyTorch on a masked dense weight, to verify against) force one.
        generator: source of all random choices; PyTorch's default one if None.

    Raises:
        ValueError: a sparsity outside [0, 1), a mask of the wrong shape or dtype, an unknown layer, distribution or
            backend, missing or too few `batches`, no `loss`; a model that is wrapped or sharded already, or on the meta
            device, or has layers without a shape; no layer that can be made sparse.
    """
    check_backend(backend)
    method = _method(method, masks is not None)
    if isinstance(masks, str) and masks != "nonzero":
        raise ValueError(f'masks must be a dict of bool tensors or "nonzero", got {masks!r}')
    storage = named(method.storage)
    if not storage.prunes:
        return model
    check_free(model)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("the model is on the meta device; give its weights memory (model.to_empty) and values first")
    if masks is not None and include:
        raise ValueError("masks say which layers become sparse: include adds nothing to them")
    zeros = take_zeros(model, exclude) if masks == "nonzero" else None
    wanted = cast("list[str]", [*include, *(masks if isinstance(masks, dict) else ())])
    every = prunable_layers(model, include=wanted)
    layers = prunable_layers(model, exclude, wanted) if exclude else every
    masks = zeros.masks if zeros is not None else cast("dict[str, Tensor] | None", masks)
    if masks is not None:
        unknown = sorted(set(masks) - set(layers))
        if unknown:
            raise ValueError(f"masks name {', '.join(unknown)}, but the prunable layers are {', '.join(layers)}")
        why = dict.fromkeys(set(every) - set(masks), CHOSEN) | (zeros.dense if zeros is not None else {})
        layers = {name: layer for name, layer in layers.items() if name in masks}
    else:
        scope = {*method.start.scope(every), *(matching(every, wanted, "include") if wanted else ())}
        why = {
            name: CHOSEN if name in scope else f"not in the scope of {method.name} (include= takes it)"
            for name in every
        }
        layers = {name: layer for name, layer in layers.items() if name in scope}
        if not layers:
            raise ValueError(f"exclude leaves none of the layers that {method.name} prunes: {', '.join(scope)}")
    compiled = [name for name, layer in layers.items() if name.endswith(COMPILED_CHILD) or compiled_itself(layer)]
    if compiled:
        raise ValueError(f"{', '.join(compiled)} are layers compiled by themselves: sparsify first, then compile")
    generator = generator or torch.Generator().manual_seed(parallel.shared(int(torch.randint(2**62, ()))))
    ready = {name: layer for name, layer in layers.items() if not isinstance(layer, PatternLayer)}
    removed: dict[str, Tensor] = {}
    if masks is not None:
        patterns = [_masked(name, layer, masks[name]) for name, layer in layers.items()]
    else:
        patterns, removed = _patterns(model, layers, method, storage, distribution, batches, loss, generator)
    patterns_of = dict(zip(layers, patterns, strict=True))
    _warn_of_empty({name: patterns_of[name] for name in ready}, method)
    total = sum(pattern.nnz for pattern in patterns)
    twins: dict[str, Any] = {}
    for name, pattern in patterns_of.items():
        if method.moves_counts:
            pattern = pattern.with_capacity(roomy(pattern.nnz, prod(pattern.shape), total, len(layers)))
        twins[name] = storage.twin(layers[name], pattern, backend)
        if name in ready and not (masks is not None and (zeros is not None or method.start.initialize == "rescale")):
            _initialize(twins[name], method.start.initialize, generator)
    model = exchange(model, twins)
    with torch.no_grad():
        for name, gone in removed.items():
            model.get_parameter(name).masked_fill_(gone, 0)
    for name in layers if masks is not None else ():
        vars(model.get_submodule(name))["pattern_given"] = True
    _tell(model, why)
    return model


def _method(method: Method | float | None, given: bool) -> Method:
    """Returns the method that is meant, where masks are `given` or not."""
    if isinstance(method, Method):
        if method.start.given and not given:
            raise ValueError(f'{method.name} keeps a pattern that is there: pass masks, "nonzero" or a dict of them')
        return method
    if method is None and given:
        return fixed()
    if not isinstance(method, Real):
        raise ValueError(f"expected a Method (sparsekern.methods.NAME(...)), a sparsity, or masks, got {method!r}")
    kept(method, 1)
    return Method("static", constant(float(method)))


def _tell(model: nn.Module, why: dict[str, str]) -> None:
    """Logs what became sparse and what did not."""
    weights = Weights(model, why)
    log.info("%s", weights)
    if weights.left(CHOSEN) > 0.1:
        warnings.warn(str(weights), stacklevel=4)


def _warn_of_empty(patterns: dict[str, Topology], method: Method) -> None:
    empty = [name for name, pattern in patterns.items() if not pattern.nnz and prod(pattern.shape)]
    if empty:
        way = "min_per_layer" if method.start.choose is not None else 'distribution="erk" or "er"'
        warnings.warn(
            f"layer collapse: {', '.join(empty)} has no weight left; {way} keeps some, exclude= leaves the layer dense",
            stacklevel=4,
        )


@torch.no_grad()
def _initialize(layer: Any, way: Initialize, generator: torch.Generator) -> None:
    """Draws new weights for the pattern, or scales the present ones, see `Start.initialize`."""
    if way in ("fan_in", "evci"):
        layer.reset_parameters(generator)
    if way == "evci":
        layer.values.mul_(2**0.5)
    if way == "rescale":
        fan_in = layer.row_ptr.diff()
        growth = (layer.topology.cols / fan_in.clamp(min=1)).sqrt()
        if isinstance(layer, MaskedLayer):
            layer.master *= growth.view(-1, *[1] * (layer.master.dim() - 1))
        else:
            layer.values[: layer.topology.nnz] *= growth.repeat_interleave(fan_in)


def _shape(layer: Any) -> tuple[int, ...]:
    if isinstance(layer, PatternLayer):
        return layer.weight_shape
    return tuple(sparse_class(layer).rows_of(layer.weight.detach().to("meta")).shape)


def _masked(name: str, layer: Any, mask: Tensor) -> Topology:
    shape = layer.dense_shape if isinstance(layer, PatternLayer) else tuple(layer.weight.shape)
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        got = f"{mask.dtype} {tuple(mask.shape)}"
        raise ValueError(f"the mask of {name} must be a bool tensor of shape {shape}, got {got}")
    return Topology.from_mask(sparse_class(layer).rows_of(mask))


def _patterns(
    model: nn.Module,
    layers: dict[str, nn.Module],
    method: Method,
    storage: Storage,
    distribution: str | Distribution | None,
    batches: Batches | None,
    loss: Loss | None,
    generator: torch.Generator,
) -> tuple[list[Topology], dict[str, Tensor]]:
    """Returns the first pattern of every layer, and which entries of other Parameters are removed with the weights. A
    layer that is sparse already keeps its pattern."""
    dense = {name: layer for name, layer in layers.items() if not isinstance(layer, PatternLayer)}
    if not dense:
        return _agreeing(layers, method), {}
    shapes = [_shape(layer) for layer in dense.values()]
    total = kept(method.sparsity(0), sum(method.view.units(shape) for shape in shapes))
    _check_minimum(method, [method.view.units(shape) for shape in shapes])
    start = method.start
    share = start.share if distribution is None else distributions.by_name(distribution)
    if distribution is not None and (storage.keeps_pruned or (start.choose and not method.view.per_layer)):
        warnings.warn(f"{method.name} shares the sparsity by itself; distribution is not used", stacklevel=4)
    removed: dict[str, Tensor] = {}
    if start.choose is not None:
        _check_data(method, batches, loss)
        counts = share(shapes, total, generator)
        network = Network(model, dense, counts, method.view, batches or (), cast(Loss, loss), generator)
        chosen = zip(dense.values(), start.choose(network), strict=True)
        fresh = [Topology.from_mask(sparse_class(layer).rows_of(mask)) for layer, mask in chosen]
        removed = network.removed
    elif not storage.keeps_pruned or (method.sparsity(0) > 0 and not method.when.fires(0)):
        counts = share(shapes, total, generator)
        fresh = [_random(shape, n, generator) for shape, n in zip(shapes, counts, strict=True)]
    else:
        fresh = [Topology.from_mask(torch.ones(shape, dtype=torch.bool), views=PACKED) for shape in shapes]
    own = dict(zip(dense, fresh, strict=True))
    patterns = [layer.topology if isinstance(layer, PatternLayer) else own[name] for name, layer in layers.items()]
    return patterns, removed


def _random(shape: tuple[int, ...], nnz: int, generator: torch.Generator) -> Topology:
    views = PACKED if nnz == prod(shape) else COLUMNS  # of all weights a list would be as long as the weights
    return Topology.random(shape, nnz, generator=generator, views=views)


def _check_minimum(method: Method, units: Sequence[int]) -> None:
    left = kept(final(method.sparsity), sum(units))
    minimum = method.view.min_per_layer
    least = sum(min(minimum, n) for n in units)
    if least > left and method.start.unit != "channel":
        raise ValueError(
            f"min_per_layer={minimum} keeps {least} of {sum(units)} in {len(units)} layers, but "
            f"{method.name} is to leave {left}"
        )


def _check_data(method: Method, batches: Batches | None, loss: Loss | None) -> None:
    start = method.start
    if not start.batches:
        return
    if batches is None or (loss is None and start.needs_loss):
        wanted = "batches=[(x, y), ...]" + " and loss=" * start.needs_loss
        raise ValueError(f"{method.name} scores on data: pass {wanted}")
    if len(batches) < start.batches:
        raise ValueError(f"{method.name} scores on {start.batches} or more batches (x, y), got {len(batches)}")


def _agreeing(layers: dict[str, nn.Module], method: Method) -> list[Topology]:
    """Returns the patterns of a model that is sparse already.

    Raises:
        ValueError: the method would start with another number of weights.
    """
    patterns = [layer.topology for layer in layers.values() if isinstance(layer, PatternLayer)]
    if method.start.unit == "channel":
        return patterns
    nnz, size = sum(pattern.nnz for pattern in patterns), sum(prod(pattern.shape) for pattern in patterns)
    expected = kept(method.sparsity(0), size)
    if nnz != expected:
        raise ValueError(
            f"the model is sparse already, with {nnz} of {size} weights; {method.name} starts with {expected}. Densify "
            "it first, or give masks"
        )
    return patterns

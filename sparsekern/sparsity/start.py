"""`sparsify`: the first pattern of a network."""

import warnings
from collections.abc import Iterable, Sequence
from math import prod
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..nn import PatternLayer, masked_twin, prunable_layers, sparse_twin, swap
from ..ops.choice import choose
from ..topology import Topology, kept
from . import distributions, parallel
from .distributions import Distribution
from .method import Method
from .schedules import constant
from .starts import Batches, Loss, Network


def sparsify(
    model: nn.Module,
    method: Method | float,
    *,
    distribution: str | Distribution | None = None,
    exclude: Iterable[str] = (),
    masks: dict[str, Tensor] | None = None,
    batches: Batches | None = None,
    loss: Loss | None = None,
    backend: str = "auto",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Exchanges the linear layers and 2-D convolutions of `model`, in place, for layers that hold their nonzeros only,
    or, for methods whose pruned weights go on learning, a dense master weight; returns the model.

    Build the optimizer afterwards: the weights are new Parameters. Weights keep their values, except where the method
    draws new ones for the pattern (`gse_*`).

    Args:
        method: a `Method`, or the sparsity of a static random pattern.
        distribution: "uniform", "er", "erk", "global" or a function; how a random pattern is shared by the layers.
            The method's own by default.
        exclude: names and glob patterns of layers to leave dense.
        masks: bool tensors of the weights' shapes by layer name, True where a weight stays; layers without one are
            left dense.
        batches, loss: data and `loss(output, target)` (mean over the batch) for methods that score on data; how many
            batches and of what size the method's paper has: `method.start.batches`, `.batch_size`.
        backend: "auto" chooses the kernel of each layer; "sparse", "dense" (products with the expanded weight) and
            "masked" (plain PyTorch on a masked dense weight, to verify against) force one.
        generator: source of all random choices; PyTorch's default one if None.

    Raises:
        ValueError: a sparsity outside [0, 1), a mask of the wrong shape or dtype, an unknown layer, distribution or
            backend, missing or too few `batches`, no `loss`.
    """
    choose(1, 1, 1.0, backend=backend)
    if not isinstance(method, Method):
        if not isinstance(method, Real):
            raise ValueError(f"expected a Method (sparsekern.methods.NAME(...)) or a sparsity, got {method!r}")
        kept(method, 1)
        method = Method("static", constant(float(method)))
    if method.storage == "dense":
        return model
    layers = prunable_layers(model, exclude)
    if any(parameter.is_meta for layer in layers.values() for parameter in layer.parameters()):
        raise ValueError("the model is on the meta device; give its weights memory (model.to_empty) and values first")
    if masks is not None:
        unknown = sorted(set(masks) - set(layers))
        if unknown:
            raise ValueError(f"masks name {', '.join(unknown)}, but the prunable layers are {', '.join(layers)}")
        layers = {name: layer for name, layer in layers.items() if name in masks}
    else:
        scope = method.scope(prunable_layers(model)) if exclude else method.scope(layers)
        layers = {name: layer for name, layer in layers.items() if name in scope}
        if not layers:
            raise ValueError(f"exclude leaves none of the layers that {method.name} prunes: {', '.join(scope)}")
    generator = generator or torch.Generator().manual_seed(parallel.common_seed(int(torch.randint(2**62, ()))))
    ready = {name: layer for name, layer in layers.items() if not isinstance(layer, PatternLayer)}
    removed: dict[str, Tensor] = {}
    if masks is not None:
        patterns = [_masked(name, layer, masks[name]) for name, layer in layers.items()]
    else:
        patterns, removed = _patterns(model, layers, method, distribution, batches, loss, generator)
    total = sum(pattern.nnz for pattern in patterns)
    for (name, layer), pattern in zip(layers.items(), patterns, strict=True):
        if method.moves_counts:
            pattern = pattern.with_capacity(roomy(pattern.nnz, prod(pattern.shape), total, len(layers)))
        if method.storage == "master":
            new: Any = masked_twin(layer, pattern, backend)
        else:
            new = sparse_twin(layer, pattern, backend)
        if name in ready:
            _initialize(new, method, generator)
        method.rule.equip(new)
        model = swap(model, name, new)
    with torch.no_grad():
        for name, gone in removed.items():
            model.get_parameter(name).masked_fill_(gone, 0)
    for name in layers if masks is not None else ():
        vars(model.get_submodule(name))["pattern_given"] = True  # of whatever sparsity
    return model


@torch.no_grad()
def _initialize(layer: Any, method: Method, generator: torch.Generator) -> None:
    """Draws new weights for the pattern, or makes those there are larger, where the method says so."""
    if method.initialize in ("fan_in", "evci"):
        layer.reset_parameters(generator)
    if method.initialize == "evci":
        layer.values.mul_(2**0.5)
    if method.initialize == "rescale":
        fan_in = layer.row_ptr.diff()
        growth = (layer.topology.cols / fan_in.clamp(min=1)).sqrt().repeat_interleave(fan_in)
        layer.values[: growth.numel()] *= growth


def roomy(nnz: int, size: int, total: int, layers: int) -> int:
    """The capacity of a layer whose count may grow, for `total` weights in `layers` layers."""
    return min(size, int(1.125 * nnz + 0.25 * total / layers) + 1)


def _shape(layer: Any) -> tuple[int, ...]:
    return layer.weight_shape if isinstance(layer, PatternLayer) else tuple(layer.weight.shape)


def _masked(name: str, layer: nn.Module, mask: Tensor) -> Topology:
    shape = _shape(layer)
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        got = f"{mask.dtype} {tuple(mask.shape)}"
        raise ValueError(f"the mask of {name} must be a bool tensor of shape {shape}, got {got}")
    return Topology.from_mask(mask)


def _patterns(
    model: nn.Module,
    layers: dict[str, nn.Module],
    method: Method,
    distribution: str | Distribution | None,
    batches: Batches | None,
    loss: Loss | None,
    generator: torch.Generator,
) -> tuple[list[Topology], dict[str, Tensor]]:
    """The first pattern of every layer, and what of other Parameters is removed with the weights. A layer that is
    sparse already keeps its own."""
    dense = {name: layer for name, layer in layers.items() if not isinstance(layer, PatternLayer)}
    if not dense:
        return _agreeing(layers, method), {}
    shapes = [_shape(layer) for layer in dense.values()]
    total = kept(method.sparsity(0), sum(method.view.units(shape) for shape in shapes))
    _check_minimum(method, [method.view.units(shape) for shape in shapes])
    share = method.share if distribution is None else distributions.by_name(distribution)
    if distribution is not None and (method.storage != "nonzeros" or (method.start and not method.view.per_layer)):
        warnings.warn(f"{method.name} shares the sparsity by itself; distribution is not used", stacklevel=3)
    removed: dict[str, Tensor] = {}
    if method.start is not None:
        _check_data(method, batches, loss)
        counts = share(shapes, total, generator)
        network = Network(
            model, dense, counts, method.view, method.min_per_layer, batches or (), cast(Loss, loss), generator
        )
        fresh = [Topology.from_mask(mask) for mask in method.start.choose(network)]
        removed = network.removed
        for name, pattern in zip(dense, fresh, strict=True):
            if not pattern.nnz:
                warnings.warn(f"layer collapse: {name} has no weight left; min_per_layer keeps some", stacklevel=3)
    elif method.storage == "nonzeros" or (method.sparsity(0) > 0 and not method.when.fires(0)):
        counts = share(shapes, total, generator)
        fresh = [Topology.random(s, n, generator=generator) for s, n in zip(shapes, counts, strict=True)]
    else:
        fresh = [Topology.from_mask(torch.ones(shape, dtype=torch.bool)) for shape in shapes]
    own = dict(zip(dense, fresh, strict=True))
    patterns = [layer.topology if isinstance(layer, PatternLayer) else own[name] for name, layer in layers.items()]
    return patterns, removed


def _check_minimum(method: Method, units: Sequence[int]) -> None:
    left = kept(method.sparsity(2**40), sum(units))
    least = sum(min(method.min_per_layer, n) for n in units)
    if least > left and not (method.start and method.start.unit == "channel"):
        raise ValueError(
            f"min_per_layer={method.min_per_layer} keeps {least} of {sum(units)} in {len(units)} layers, but "
            f"{method.name} is to leave {left}"
        )


def _check_data(method: Method, batches: Batches | None, loss: Loss | None) -> None:
    start = method.start
    if start is None or not start.batches:
        return
    if batches is None or (loss is None and start.needs_loss):
        wanted = "batches=[(x, y), ...]" + " and loss=" * start.needs_loss
        raise ValueError(f"{method.name} scores on data: pass {wanted}")
    if len(batches) < start.batches:
        raise ValueError(f"{method.name} scores on {start.batches} or more batches (x, y), got {len(batches)}")


def _agreeing(layers: dict[str, nn.Module], method: Method) -> list[Topology]:
    """The patterns of a model that is sparse already, as the method would have it."""
    patterns = [layer.topology for layer in layers.values() if isinstance(layer, PatternLayer)]
    if method.start is not None and method.start.unit == "channel":
        return patterns
    nnz, size = sum(pattern.nnz for pattern in patterns), sum(prod(pattern.shape) for pattern in patterns)
    expected = kept(method.sparsity(0), size)
    if nnz != expected:
        raise ValueError(
            f"the model is sparse already, with {nnz} of {size} weights; {method.name} starts with {expected}. Densify "
            "it first, or give masks"
        )
    return patterns

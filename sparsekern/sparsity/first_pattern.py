"""The first pattern of layers that share a method: given, random, or chosen by scores."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..nn import MaskedLayer, PatternLayer
from ..nn.conversion.registry import sparse_class
from ..topology import CSC, PACKED, Topology, nnz_at
from .method import Method
from .parts import distributions, views
from .parts.distributions import Distribution
from .parts.schedules import final
from .scoring.network import Batches, Loss, Network
from .scoring.start import Initialize


class Chooser(NamedTuple):
    """Chooses first patterns; the fields are arguments of `sparsify`."""

    model: nn.Module
    masks: Mapping[str, Tensor]
    batches: Batches | None
    loss: Loss | None
    generator: torch.Generator

    def patterns(
        self, layers: dict[str, nn.Module], method: Method, distribution: str | Distribution | None
    ) -> tuple[dict[str, Topology], dict[str, Tensor]]:
        """Returns the first pattern of every layer, by name, and which entries of other Parameters are removed with the
        weights. Masks come first; a layer that is sparse already keeps its pattern."""
        found = {name: _masked(name, layers[name], mask) for name, mask in self.masks.items() if name in layers}
        left = {name: layer for name, layer in layers.items() if name not in found}
        dense = {name: layer for name, layer in left.items() if not isinstance(layer, PatternLayer)}
        if left and not dense:
            _check_agreeing(left, method)
        found |= {name: layer.topology for name, layer in left.items() if isinstance(layer, PatternLayer)}
        removed: dict[str, Tensor] = {}
        if dense:
            chosen, removed = self._chosen(dense, method, distribution)
            found |= zip(dense, chosen, strict=True)
        return {name: found[name] for name in layers}, removed

    def _chosen(
        self, layers: dict[str, nn.Module], method: Method, distribution: str | Distribution | None
    ) -> tuple[list[Topology], dict[str, Tensor]]:
        view, start, storage = method.view, method.start, method.resolved_storage
        shapes = [shape_of(layer) for layer in layers.values()]
        _check_structure(method, dict(zip(layers, shapes, strict=True)))
        units = [view.units(shape) for shape in shapes]
        total = nnz_at(method.sparsity(0), sum(units))
        _check_minimum(method, units)
        share = start.share if distribution is None else distributions.by_name(distribution)
        if distribution is not None and (storage.keeps_pruned or (start.choose and not method.view.per_layer)):
            warnings.warn(f"{method.name} shares the sparsity by itself; distribution is not used", stacklevel=5)
        if start.choose is not None:
            _check_data(method, self.batches, self.loss)
            counts = share(shapes, total, self.generator)
            if view.structure is not None:
                counts = replace(view, share=share).counts(shapes, total, self.generator)
            network = Network(
                self.model, layers, counts, view, self.batches or (), cast(Loss, self.loss), self.generator
            )
            pairs = zip(layers.values(), start.choose(network), strict=True)
            return [Topology.from_mask(sparse_class(layer).rows_of(mask)) for layer, mask in pairs], network.removed
        if not storage.keeps_pruned or (method.sparsity(0) > 0 and not method.when.fires(0)):
            if view.structure is not None:
                view = replace(view, share=share, per_layer=True)
                counts = view.counts(shapes, total, self.generator)
                drawn = [torch.rand(shape, generator=self.generator) for shape in shapes]
                return [Topology.from_mask(mask) for mask in view.masks(drawn, counts, shapes)], {}
            counts = views.at_least(
                view.min_per_layer, share(shapes, total, self.generator), [prod(shape) for shape in shapes]
            )
            pairs = zip(shapes, counts, strict=True)
            return [_random(shape, n, self.generator) for shape, n in pairs], {}
        return [Topology.from_mask(torch.ones(shape, dtype=torch.bool), views=PACKED) for shape in shapes], {}


def _random(shape: tuple[int, ...], nnz: int, generator: torch.Generator) -> Topology:
    views = PACKED if nnz == prod(shape) else CSC  # of all weights a list would be as long as the weights
    return Topology.random(shape, nnz, generator=generator, views=views)


def shape_of(layer: Any) -> tuple[int, ...]:
    if isinstance(layer, PatternLayer):
        return layer.weight_shape
    return tuple(sparse_class(layer).rows_of(layer.weight.detach().to("meta")).shape)


@torch.no_grad()
def initialize(layer: Any, way: Initialize, generator: torch.Generator) -> None:
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


def _masked(name: str, layer: Any, mask: Tensor) -> Topology:
    shape = layer.dense_shape if isinstance(layer, PatternLayer) else tuple(layer.weight.shape)
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        got = f"{mask.dtype} {tuple(mask.shape)}"
        raise ValueError(f"the mask of {name} must be a bool tensor of shape {shape}, got {got}")
    return Topology.from_mask(sparse_class(layer).rows_of(mask))


def _check_structure(method: Method, shapes: Mapping[str, tuple[int, ...]]) -> None:
    structure = method.view.structure
    problems = {} if structure is None else {name: structure.problem(shape) for name, shape in shapes.items()}
    for name, problem in problems.items():
        if problem is not None:
            raise ValueError(
                f"{name or 'the layer'}: {problem}; leave it dense (exclude, overrides), or make it larger"
            )


def _check_minimum(method: Method, units: Sequence[int]) -> None:
    left = nnz_at(final(method.sparsity), sum(units))
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


def _check_agreeing(layers: dict[str, nn.Module], method: Method) -> None:
    """Raises a `ValueError` if a method would start with another number of weights than layers have that are sparse
    already."""
    patterns = [layer.topology for layer in layers.values() if isinstance(layer, PatternLayer)]
    nnz, size = sum(pattern.nnz for pattern in patterns), sum(prod(pattern.shape) for pattern in patterns)
    expected = nnz_at(method.sparsity(0), size)
    if nnz != expected and method.start.unit != "channel":
        raise ValueError(
            f"the model is sparse already, with {nnz} of {size} weights; {method.name} starts with {expected}. Densify "
            "it first, or give masks"
        )

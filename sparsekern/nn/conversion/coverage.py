"""Accounts for the weights of a model: which are sparse, which are not, and why."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ... import private_torch
from ...shards import is_sharded
from ..layer import PatternLayer
from .registry import OPT_IN, SPARSE, behaves_like, registered

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
FREE = "not made sparse"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def shared_parameters(model: nn.Module) -> set[int]:
    """The ids of the Parameters that several modules hold."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return {key for key, count in owners.items() if count > 1}


def obstacle(layer: Any, shared: set[int], masked: bool = False) -> str | None:
    """Returns why a layer cannot be made sparse; None if it can, or is. `masked`: a mask that computes its weight is
    about to end."""
    if not isinstance(layer, PatternLayer):
        kind = registered(type(layer))
        if kind is None:
            return "no sparse layer of this class"
        computed = kind in SPARSE and "weight" not in private_torch.parameters(layer)
        if not masked and (computed or nn.utils.parametrize.is_parametrized(layer)):
            return "computes its weight (weight norm, a mask?)"
        if kind in SPARSE and (reason := _strange(layer.weight)) is not None:
            return reason
        if not behaves_like(nn.utils.parametrize.type_before_parametrizations(layer), kind):
            return "a subclass that overrides what a layer does (sk.register_layer takes it)"
        if kind not in SPARSE and kind in OPT_IN:
            return "left dense unless include= names it"
        if kind not in SPARSE:
            return "no sparse layer of this class"
        if (reason := SPARSE[kind].refuses(layer)) is not None:
            return reason
        if isinstance(layer, NonDynamicallyQuantizableLinear):
            return "its owner reads its weight"
    if "forward" in vars(layer):
        return "its forward is replaced"
    if any(id(parameter) in shared for parameter in layer.parameters(recurse=False)):
        return "shares a parameter with another module"
    return None


def _strange(weight: Any) -> str | None:
    """Returns why no kernel takes the entries of a weight; None if one does."""
    if weight.layout != torch.strided:
        return f"its weight is laid out as {weight.layout}"
    if hasattr(weight, "__tensor_flatten__") and not is_sharded(weight):  # made of other tensors
        return f"its weight is a {type(weight).__name__} (quantized?)"
    return None if weight.dtype in DTYPES else f"its weight is of {weight.dtype}"


class Weights:
    """The weights of a model, which are its Parameters of two and more dimensions, without those of embeddings.

    Attributes:
        sparse: how many entries belong to layers with a pattern.
        dense: how many do not, by the class of the module and why not, and by the module's name.
    """

    def __init__(self, model: nn.Module, why: Mapping[str, str] | None = None) -> None:
        """
        Args:
            why: for some layers, why they stay dense although they need not.
        """
        self.sparse = 0
        self.dense: dict[tuple[str, str], dict[str, int]] = {}
        shared = shared_parameters(model)
        counted: set[int] = set()
        embeddings = {
            id(parameter)
            for module in model.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if isinstance(module, EMBEDDINGS) or "embed" in name
        }
        for name, module in model.named_modules():
            if isinstance(module, PatternLayer):
                self.sparse += prod(module.weight_shape)
                continue
            own = [p for p in module.parameters(recurse=False) if p.dim() > 1 and id(p) not in embeddings]
            if own:
                if isinstance(module, nn.utils.parametrize.ParametrizationList):
                    name = name.rpartition(".parametrizations")[0]
                    module = model.get_submodule(name)
                reason = obstacle(module, shared) or (why or {}).get(name, FREE)
                places = self.dense.setdefault((type(module).__name__, reason), {})
                places[name] = places.get(name, 0) + sum(p.numel() for p in own if id(p) not in counted)
                counted |= {id(p) for p in own}

    @property
    def total(self) -> int:
        return self.sparse + sum(sum(places.values()) for places in self.dense.values())

    def left(self, chosen: str) -> float:
        """The share of what stays dense for other reasons than `chosen`, among all weights but those."""
        sizes = [(reason, sum(places.values())) for (_, reason), places in self.dense.items()]
        left = sum(size for reason, size in sizes if reason != chosen)
        return left / max(1, self.sparse + left)

    def __str__(self) -> str:
        """The share of the sparse layers, and what is dense, by class."""
        if not self.total:
            return "the model has no weights of two or more dimensions"
        parts = []
        for (kind, reason), places in sorted(self.dense.items(), key=lambda item: -sum(item[1].values())):
            names = [name or "the model" for name in list(places)[:3]] + ["..."] * (len(places) > 3)
            share = sum(places.values()) / self.total
            parts.append(f"{len(places)} {kind} with {share:.1%} ({', '.join(names)}): {reason}")
        dense = f"; dense: {'; '.join(parts)}" if parts else ""
        return f"{self.sparse / self.total:.1%} of the model's {self.total} weights are in sparse layers{dense}"

"""Finds the zeros of a model that was pruned before: in its weights, or in masks that compute them."""

import logging
import warnings
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ... import private_torch
from ...nn import PatternLayer, matching
from ...nn.conversion import maskings
from ...nn.conversion.coverage import obstacle, shared_parameters
from ...nn.conversion.registry import SPARSE, is_wanted, registered_class

log = logging.getLogger("sparsekern")
FEW = 0.01  # zeros up to this fraction of a layer are taken for chance


class Zeros(NamedTuple):
    """The zeros that `take_zeros` found.

    Attributes:
        masks: bool tensors of the weights' shapes by layer name, True where a weight is not zero.
        dense: why the other layers stay dense, by name.
    """

    masks: dict[str, Tensor]
    dense: dict[str, str]


@torch.no_grad()
def take_zeros(model: nn.Module, exclude: Iterable[str] = (), without: Collection[str] = ()) -> Zeros:
    """Reads the zeros of the layers of a model, and ends what masks their weights (`torch.nn.utils.prune`,
    `torch.ao.pruning`), which then are Parameters with the zeros in them. A layer that is sparse already keeps its
    pattern. What stays dense keeps its mask.

    Args:
        exclude: names and globs of layers to leave alone.
        without: names of modules to leave alone.

    Raises:
        ValueError: a bias is masked, whose zeros no layer keeps; no layer has zeros. Nothing was changed then.
    """
    gone = matching(maskable(model), exclude, "exclude") | {*without}
    found, layers, shared = Zeros({}, {}), dict(model.named_modules()), shared_parameters(model)
    for name, layer in layers.items():
        if name in gone or not (isinstance(layer, PatternLayer) or registered_class(layer) in SPARSE):
            continue
        masked = masking_of(layer)
        if (reason := _reason(name, layer, shared, masked is not None)) is not None:
            if masked is not None:
                found.dense[name] = reason
                warnings.warn(f"{name} stays dense under its mask: {reason}", stacklevel=6)
            continue
        mask = nonzeros(layer) if masked is None else masked
        zeros, size = int((~mask).sum()), mask.numel()
        if isinstance(layer, PatternLayer) or FEW * size < zeros < size:
            found.masks[name] = mask
            log.info("%s: %d of %d weights are zero (%.1f %%)", name, zeros, size, 100 * zeros / max(1, size))
        else:
            found.dense[name] = "every weight is zero" if zeros == size else f"at most {FEW:.0%} of it is zero"
    masks = [name for name in found.masks if masking_of(layers[name]) is not None]
    biases = [name for name in masks if "bias_mask" in private_torch.buffers(layers[name])]
    if biases:
        raise ValueError(
            f"the biases of {', '.join(biases)} are masked, but their zeros could not be kept: make them whole by "
            'torch.nn.utils.prune.remove(layer, "bias") first'
        )
    if not found.masks:
        said = "; ".join(f"{name}: {reason}" for name, reason in found.dense.items()) or "it has none to make sparse"
        raise ValueError(f"no layer of the model has zeros to keep: {said}")
    for name in masks:
        maskings.end(layers[name])
    return found


def _reason(name: str, layer: Any, shared: set[int], masked: bool) -> str | None:
    """Returns why a layer stays dense, whatever zeros it has."""
    if not is_wanted(name, layer, ()):
        return "left dense by default"
    return obstacle(layer, shared, masked)


def maskable(model: nn.Module) -> list[str]:
    """Returns the names of the layers that have zeros or may be masked."""
    return [name for name, layer in model.named_modules() if registered_class(layer) in SPARSE]


def nonzeros(layer: Any) -> Tensor:
    return layer.weight_of(layer.topology.mask()) if isinstance(layer, PatternLayer) else layer.weight != 0


def masking_of(layer: nn.Module) -> Tensor | None:
    """Returns the mask that computes the weight of a linear layer or a convolution, bool; None if nothing does, or
    something else."""
    return None if isinstance(layer, PatternLayer) or registered_class(layer) not in SPARSE else maskings.mask_of(layer)

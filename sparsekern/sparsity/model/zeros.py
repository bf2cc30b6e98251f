"""Finds the zeros of a model that was pruned before: in its weights, or in masks that compute them."""

import logging
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from ... import private_torch
from ...nn import PatternLayer, matching, prunable_layers
from ...nn.conversion.registry import SPARSE, twin_of

log = logging.getLogger("sparsekern")
FEW = 0.01  # zeros up to this fraction of a layer are taken for chance
MASKING = "FakeSparsity"  # the parametrization of torch.ao.pruning, which is slow to import


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
    pattern.

    Args:
        exclude: names and globs of layers to leave alone.
        without: names of modules to leave alone.

    Raises:
        ValueError: a bias is masked, whose zeros no layer keeps; no layer has zeros. Nothing was changed then.
    """
    masked = {name: mask for name, layer in model.named_modules() if (mask := masking_of(layer)) is not None}
    gone = matching(maskable(model), exclude, "exclude") | {*without}
    masked = {name: mask for name, mask in masked.items() if name not in gone}
    biases = [name for name in masked if "bias_mask" in private_torch.buffers(model.get_submodule(name))]
    if biases:
        raise ValueError(
            f"the biases of {', '.join(biases)} are masked, but their zeros could not be kept: make them whole by "
            'torch.nn.utils.prune.remove(layer, "bias") first'
        )
    for name in masked:
        end_masking(model.get_submodule(name))
    found = Zeros({}, {})
    for name, layer in prunable_layers(model, exclude).items():
        if name in gone:
            continue
        mask = masked[name] if name in masked else nonzeros(layer)
        zeros, size = int((~mask).sum()), mask.numel()
        if isinstance(layer, PatternLayer) or FEW * size < zeros < size:
            found.masks[name] = mask
            log.info("%s: %d of %d weights are zero (%.1f %%)", name, zeros, size, 100 * zeros / max(1, size))
        else:
            found.dense[name] = "every weight is zero" if zeros == size else f"at most {FEW:.0%} of it is zero"
    if not found.masks:
        raise ValueError(
            f"no layer has zeros: of {', '.join(found.dense)} at most {FEW:.0%} of the weights are, or all"
        )
    return found


def maskable(model: nn.Module) -> list[str]:
    """Returns the names of the layers that have zeros or may be masked."""
    return [name for name, layer in model.named_modules() if twin_of(layer) in SPARSE]


def nonzeros(layer: Any) -> Tensor:
    return layer.weight_of(layer.topology.mask()) if isinstance(layer, PatternLayer) else layer.weight != 0


def masking_of(layer: nn.Module) -> Tensor | None:
    """Returns the mask that computes the weight of a linear layer or a convolution, bool; None if nothing does, or
    something else."""
    if isinstance(layer, PatternLayer) or twin_of(layer) not in SPARSE:
        return None
    if "weight_mask" in private_torch.buffers(layer) and "weight_orig" in private_torch.parameters(layer):
        return layer.get_buffer("weight_mask").bool()
    if parametrize.is_parametrized(layer, "weight"):
        steps: Any = layer.parametrizations
        if [type(step).__name__ for step in steps.weight] == [MASKING]:
            return steps.weight[0].mask.bool()
    return None


def end_masking(layer: nn.Module) -> None:
    if parametrize.is_parametrized(layer, "weight"):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    else:
        prune.remove(layer, "weight")

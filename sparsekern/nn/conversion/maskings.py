"""Masks that compute the weights of plain PyTorch layers: `torch.nn.utils.prune`, `torch.ao.pruning`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from ... import private_torch
from .registry import OPT_IN, SPLITTERS, registered

MASKING = "FakeSparsity"  # the parametrization of torch.ao.pruning, which is slow to import


class Masking(NamedTuple):
    """A mask that is about to end.

    Attributes:
        module, name: the module, and its Parameter that was masked.
        mask: bool tensor of its shape.
        original: the values before, under the mask too.
        step: the parametrization that held the mask, None if `torch.nn.utils.prune` did.
    """

    module: nn.Module
    name: str
    mask: Tensor
    original: Tensor
    step: nn.Module | None

    @classmethod
    def of(cls, module: nn.Module, name: str, mask: Tensor) -> Masking:
        step = _step(module, name)
        return cls(module, name, mask, _stored(module, name, step).detach().clone(), step)

    def restore(self) -> None:
        """Masks the Parameter again."""
        if self.step is None:
            prune.custom_from_mask(self.module, self.name, self.mask)
        else:
            parametrize.register_parametrization(self.module, self.name, self.step)
        with torch.no_grad():
            _stored(self.module, self.name, self.step).copy_(self.original)


def mask_of(module: nn.Module, name: str = "weight") -> Tensor | None:
    """Returns the mask that computes a Parameter of a module, bool; None if nothing does, or something else."""
    if f"{name}_mask" in private_torch.buffers(module) and f"{name}_orig" in private_torch.parameters(module):
        return module.get_buffer(f"{name}_mask").bool()
    step = _step(module, name)
    return None if step is None else step.mask.bool()


@torch.no_grad()
def end(module: nn.Module, name: str = "weight") -> None:
    """Makes a masked Parameter one with zeros in it."""
    if _step(module, name) is None:
        prune.remove(module, name)
    else:
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def end_in_split(model: nn.Module) -> list[Masking]:
    """Ends the masks of the weights of layers that are exchanged for several, and of those inside; `restore_in` masks
    them again."""
    ended = []
    for layer in model.modules():
        kind = registered(type(layer))
        if kind in SPLITTERS and kind not in OPT_IN:
            for module in layer.modules():
                names = [name.removesuffix("_mask") for name in private_torch.buffers(module) if name.endswith("_mask")]
                names += list(getattr(module, "parametrizations", ()))
                masks = [(name, mask) for name in names if (mask := mask_of(module, name)) is not None]
                for name, mask in masks:
                    if mask.dim() > 1:
                        ended.append(Masking.of(module, name, mask))
                        end(module, name)
    return ended


def restore_in(model: nn.Module, ended: list[Masking]) -> None:
    """Masks those again that the model still has as they were."""
    present = {id(module) for module in model.modules()}
    for masking in ended:
        if id(masking.module) in present:
            masking.restore()


def _stored(module: nn.Module, name: str, step: nn.Module | None) -> nn.Parameter:
    return module.get_parameter(f"{name}_orig" if step is None else f"parametrizations.{name}.original")


def _step(module: nn.Module, name: str) -> Any:
    if parametrize.is_parametrized(module, name):
        steps: Any = module.parametrizations[name]  # type: ignore[index]
        if [type(step).__name__ for step in steps] == [MASKING]:
            return steps[0]
    return None

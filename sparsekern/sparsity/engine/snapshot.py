"""Rewinds weights and optimizer state to an earlier step of training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...nn import PatternLayer
from ..change.carry_optimizer_state import fresh_state
from ..change.transaction import Transaction
from ..model.wrappers import bare
from ..sites.site import LayerSite


class Snapshot:
    """All Parameters, buffers and optimizer state at one step. After the first rewinding, a layer that was pruned has
    only the weights in it that are left.

    Attributes:
        saved: plain values that `torch.save` can hold. "layers": by name the flat coordinates `places` (None: all), the
            weight and each state tensor of its shape there (`values`), and the rest of its optimizer state (`state`).
            "parameters", "states": every other Parameter by name, and its optimizer state. "buffers": by name.
    """

    def __init__(self, saved: dict[str, Any]) -> None:
        self.saved = saved

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer, sites: Sequence[LayerSite]) -> Snapshot:
        """Returns a snapshot of the present. The layers of the sites still hold their dense weights."""
        layers = {}
        for site in sites:
            parameter = site.parameter
            own = optimizer.state.get(parameter, {})
            alike = {key: value for key, value in own.items() if _alike(value, parameter)}
            layers[site.name] = {
                "places": None,
                "values": {key: value.flatten().clone() for key, value in {"": parameter.detach(), **alike}.items()},
                "state": {key: _copied(value) for key, value in own.items() if key not in alike},
            }
        others = dict(_others(model, sites))
        return cls(
            {
                "layers": layers,
                "parameters": {name: parameter.detach().clone() for name, parameter in others.items()},
                "states": {name: _copies(optimizer.state.get(p, {})) for name, p in others.items()},
                "buffers": {name: buffer.clone() for name, buffer in _buffers(model)},
            }
        )

    @torch.no_grad()
    def restore(
        self, change: Transaction, model: nn.Module, optimizer: torch.optim.Optimizer, sites: Sequence[LayerSite]
    ) -> Snapshot:
        """Gives everything the values of the snapshot. Learning rates stay as they are.

        Returns the snapshot for later returns, without the weights that are pruned now."""
        layers, state = {}, change.contents(optimizer.state)
        for site in sites:
            saved, active, parameter = self.saved["layers"][site.name], site.active, site.parameter
            places = active.coordinates()
            found = places if saved["places"] is None else torch.searchsorted(saved["places"], places)
            left = {key: value[found] for key, value in saved["values"].items()}
            layers[site.name] = {**saved, "places": places, "values": left}
            values = {key: active.from_csr(value) for key, value in left.items()}
            change.copy(parameter, values.pop(""))
            own = {**_copies(saved["state"]), **values}
            fresh = fresh_state(optimizer, change.original(site.module).stored) if own else None
            if fresh is not None and parameter.dim() == 1 and not fresh.keys() <= own.keys():
                own = {}  # of rows and columns of the dense weight (Adafactor)
            _replace(state, parameter, own)
        for name, parameter in _others(model, sites, change):
            change.copy(parameter, self.saved["parameters"][name])
            _replace(state, parameter, _copies(self.saved["states"][name]))
        for name, buffer in _buffers(model):
            change.copy(buffer, self.saved["buffers"][name])
        return Snapshot({**self.saved, "layers": layers})

    def kept(self, site: LayerSite) -> list[Tensor]:
        """Returns the tensors that are held for the weight of a layer."""
        saved = self.saved["layers"][site.name]
        return [*saved["values"].values(), *(() if saved["places"] is None else (saved["places"],))]

    def state(self) -> dict[str, Any]:
        """Returns `saved` in a form that later returns don't change."""
        return {**self.saved, "layers": {name: dict(layer) for name, layer in self.saved["layers"].items()}}

    @classmethod
    def loaded(cls, saved: dict[str, Any], sites: Sequence[LayerSite]) -> Snapshot:
        """Returns the snapshot in a state dict, on the device of the weights."""
        return cls(_moved(saved, sites[0].parameter.device))


def _others(
    model: nn.Module, sites: Sequence[LayerSite], change: Transaction | None = None
) -> Iterator[tuple[str, nn.Parameter]]:
    layers = [site.module if change is None else change.original(site.module) for site in sites]
    own = {id(layer.stored) for layer in layers}
    return ((name, p) for name, p in bare(model).named_parameters() if id(p) not in own)


def _buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields all buffers but those of patterns."""
    for prefix, module in bare(model).named_modules():
        if not isinstance(module, PatternLayer):
            yield from module.named_buffers(prefix, recurse=False)


def _replace(states: dict[Any, Any], parameter: nn.Parameter, state: dict[str, Any]) -> None:
    if state:
        states[parameter] = state
    else:
        states.pop(parameter, None)


def _alike(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _copies(state: dict[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) for key, value in state.items()}


def _moved(value: Any, device: torch.device) -> Any:
    """Returns copies on `device`. Scalars, such as an optimizer's count of steps, stay where they are."""
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    return value.to(device, copy=True) if isinstance(value, Tensor) and value.dim() else _copied(value)

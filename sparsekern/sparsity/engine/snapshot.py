"""Rewinds weights and optimizer state to an earlier step of training."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ...nn import PatternLayer
from ...topology import Topology
from ..change.carry_optimizer_state import fresh_state
from ..change.transaction import Transaction
from ..model.wrappers import bare
from ..sites.site import LayerSite


class Snapshot:
    """All Parameters, buffers and optimizer state at one step, a value. On the CPU they lie in a temporary file, of
    which the operating system reads what is asked for.

    Attributes:
        saved: plain values that `torch.save` can hold. "layers": by name the flat coordinates `places` (None: all), the
            weight and each state tensor of its shape there (`values`), and the rest of its optimizer state (`state`).
            "parameters", "states": every other Parameter by name, and its optimizer state. "buffers": by name.
        in_file: whether they take no memory. Where they do, a layer has only the weights in them that are left after
            the first return.
    """

    in_file = False

    def __init__(self, saved: dict[str, Any]) -> None:
        self.saved, self.in_file = _filed(saved)

    def __deepcopy__(self, memo: dict[int, Any]) -> Snapshot:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Snapshot, (self.saved,)

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
                "values": {key: value.flatten() for key, value in {"": parameter.detach(), **alike}.items()},
                "state": {key: value for key, value in own.items() if key not in alike},
            }
        others = dict(_others(model, sites))
        return cls(
            {
                "layers": layers,
                "parameters": {name: parameter.detach() for name, parameter in others.items()},
                "states": {name: dict(optimizer.state.get(p, {})) for name, p in others.items()},
                "buffers": dict(_buffers(model)),
            }
        )

    @torch.no_grad()
    def restore(
        self, change: Transaction, model: nn.Module, optimizer: torch.optim.Optimizer, sites: Sequence[LayerSite]
    ) -> Snapshot:
        """Gives everything the values of the snapshot. Learning rates stay as they are.

        Returns the snapshot for later returns."""
        state = change.contents(optimizer.state)
        for site in sites:
            saved, parameter = self.saved["layers"][site.name], site.parameter
            stored = change.original(site.module).stored
            values = {key: _there(value, saved["places"], site.active) for key, value in saved["values"].items()}
            if parameter is stored:
                change.copy(parameter, values.pop(""))
            else:  # a new one, which nobody has seen
                parameter.copy_(values.pop(""))
            own = {**_copies(saved["state"]), **values}
            fresh = fresh_state(optimizer, stored) if own else None
            if fresh is not None and parameter.dim() == 1 and not fresh.keys() <= own.keys():
                own = {}  # of rows and columns of the dense weight (Adafactor)
            _replace(state, parameter, own)
        for name, parameter in _others(model, sites, change):
            change.copy(parameter, self.saved["parameters"][name])
            _replace(state, parameter, _copies(self.saved["states"][name]))
        for name, buffer in _buffers(model):
            change.copy(buffer, self.saved["buffers"][name])
        return self if self.in_file else Snapshot(self.state(sites))

    def kept(self, site: LayerSite) -> list[Tensor]:
        """Returns the tensors that are held in memory for the weight of a layer."""
        saved = self.saved["layers"][site.name]
        own = [*saved["values"].values(), *(() if saved["places"] is None else (saved["places"],))]
        return [] if self.in_file else own

    def state(self, sites: Sequence[LayerSite]) -> dict[str, Any]:
        """Returns `saved` without the weights that are pruned now."""
        return {**self.saved, "layers": {site.name: _left(self.saved["layers"][site.name], site) for site in sites}}

    @classmethod
    def loaded(cls, saved: dict[str, Any], sites: Sequence[LayerSite]) -> Snapshot:
        """Returns the snapshot in a state dict, on the device of the weights."""
        return cls(_moved(saved, sites[0].parameter.device))


def _left(saved: dict[str, Any], site: LayerSite) -> dict[str, Any]:
    """Returns what is saved of a layer without the weights that are pruned now."""
    if site.nnz == site.size:
        return dict(saved)
    active = site.active
    values = {key: active.to_csr(_there(value, saved["places"], active)) for key, value in saved["values"].items()}
    return {**saved, "places": active.coordinates(), "values": values}


def _there(value: Tensor, places: Tensor | None, active: Topology) -> Tensor:
    """Returns what is saved of the active weights, `[capacity]`. `places`: those that `value` is of; None: all."""
    if places is None:
        return active.gather(value.view(active.shape))
    return active.from_csr(value[torch.searchsorted(places, active.coordinates())])


def _filed(saved: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Returns copies: in a file that vanishes with them and True, or in memory and False, where they are of a GPU or no
    file can be had."""
    with suppress(OSError, RuntimeError):
        if all(tensor.device.type == "cpu" for tensor in _tensors(saved)):
            with tempfile.NamedTemporaryFile(prefix="sparsekern-") as file:
                torch.save(saved, file.name)
                return torch.load(file.name, mmap=True, weights_only=False), True
    return _cloned(saved), False


def _cloned(value: Any) -> Any:
    return {key: _cloned(part) for key, part in value.items()} if isinstance(value, dict) else _copied(value)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, Tensor):
        yield value


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

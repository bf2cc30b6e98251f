"""Rewinds weights and optimizer state to an earlier step of training."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ...nn import PatternLayer
from ...topology import Topology
from ..change.carry_optimizer_state import fresh_state
from ..change.compaction import Compaction, Marks
from ..change.optimizer_layout import paths
from ..change.transaction import Transaction
from ..model.wrappers import bare
from ..sites.layer_site import LayerSite


class Snapshot:
    """All Parameters, buffers and optimizer state at one step, a value.

    On the CPU they lie in a temporary file, of which the operating system reads what is asked for. Where they take
    memory, a layer that was pruned has, after the first return, only the weights in them that are left.

    Attributes:
        saved: plain values that `torch.save` can hold. "layers": by name the flat coordinates `places` (None: all), the
            weight and each state tensor of its shape there (`values`), and the rest of its optimizer state (`state`).
            "parameters", "states": every other Parameter by name, and its optimizer state. "buffers": by name.
        in_file: whether they take no memory.
    """

    def __init__(self, saved: dict[str, Any], in_file: bool = False) -> None:
        self.saved, self.in_file = saved, in_file

    def __deepcopy__(self, memo: dict[int, Any]) -> Snapshot:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Snapshot.apart, (self.saved,)

    @classmethod
    def apart(cls, saved: dict[str, Any]) -> Snapshot:
        """Returns a snapshot of copies: in a file that goes with it or, where no file can be had or the tensors are of
        another device, in memory. A file takes at most half of what is free in the folder of temporary files."""
        tensors = list(_tensors(saved))
        with suppress(Exception):  # what cannot be pickled, for one
            size, folder = sum(tensor.nbytes for tensor in tensors), tempfile.gettempdir()
            if all(tensor.device.type == "cpu" for tensor in tensors) and 2 * size < shutil.disk_usage(folder).free:
                with tempfile.NamedTemporaryFile(prefix="sparsekern-", dir=folder) as file:
                    torch.save(saved, file)
                    file.flush()
                    return cls(torch.load(file.name, mmap=True, weights_only=False), in_file=True)
        return cls(_copied(saved))

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
        return cls.apart(
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
        left = self if self.in_file else Snapshot(self.state(sites))
        state = change.contents(optimizer.state)
        for site in sites:
            saved, active, parameter = left.saved["layers"][site.name], site.active, site.parameter
            move = Compaction(change, _stays(saved, active), active.capacity) if self.in_file else None
            held, values = change.current(state.get(parameter, {})), {"": parameter}
            for key, value in saved["values"].items():
                target = parameter if not key else held.get(key)
                values[key] = target if _alike(target, parameter) else value.new_empty(active.capacity)
                if move is None:
                    change.copy(values[key], active.from_csr(value))
                else:
                    move.into(value, values[key])
            del values[""]
            own = {**_copied(saved["state"]), **values}
            fresh = fresh_state(optimizer, change.original(site.module).stored) if own else None
            found = paths(own)
            lists = any("." in path and tensor.dim() for path, tensor in found.items())  # whose entries have no places
            if parameter.dim() == 1 and fresh is not None and (lists or not fresh.keys() <= found.keys()):
                own = {}  # of rows and columns of the dense weight (Adafactor)
            _replace(state, parameter, own)
        for name, parameter in _others(model, sites, change):
            change.copy(parameter, self.saved["parameters"][name])
            _replace(state, parameter, _copied(self.saved["states"][name]))
        for name, buffer in _buffers(model):
            change.copy(buffer, self.saved["buffers"][name])
        return left

    def extra_tensors(self, site: LayerSite) -> list[Tensor]:
        """Returns the tensors that take memory for the weight of a layer."""
        saved = self.saved["layers"][site.name]
        held = [*saved["values"].values(), *(() if saved["places"] is None else (saved["places"],))]
        return [] if self.in_file else held

    def state(self, sites: Sequence[LayerSite]) -> dict[str, Any]:
        """Returns `saved` without the weights that are pruned now."""
        layers = {site.name: _left(self.saved["layers"][site.name], site.active) for site in sites}
        return {**self.saved, "layers": layers}

    @classmethod
    def loaded(cls, saved: dict[str, Any], sites: Sequence[LayerSite]) -> Snapshot:
        """Returns the snapshot in a state dict, on the device of the weights."""
        return cls.apart(_moved(saved, sites[0].parameter.device))


def _left(saved: dict[str, Any], active: Topology) -> dict[str, Any]:
    """Returns what is saved of a layer without the weights that are pruned now."""
    if saved["values"][""].numel() == active.nnz:
        return dict(saved)
    places = active.coordinates()
    found = places if saved["places"] is None else torch.searchsorted(saved["places"], places)
    return {**saved, "places": places, "values": {key: value[found] for key, value in saved["values"].items()}}


def _stays(saved: dict[str, Any], active: Topology) -> Marks:
    """Returns which of the saved weights are active."""
    if (places := saved["places"]) is None:
        return Marks(active.flat_bits(), active.rows * active.cols)
    return Marks.of(active.positions(places) >= 0)


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
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _moved(value: Any, device: torch.device) -> Any:
    """Returns what is saved on `device`. Scalars, such as an optimizer's count of steps, stay where they are."""
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    return value.to(device) if isinstance(value, Tensor) and value.dim() else value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, Tensor):
        yield value

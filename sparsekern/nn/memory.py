"""Reports what the weights of a model cost in bytes, beside the dense twin's."""

from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from .. import text
from ..ops import extension
from ..ops.expand import PANEL_BYTES, THREAD_BLOCK_BYTES, THREAD_PANEL_BYTES
from ..ops.narrow_pattern import BYTES as NARROW_BYTES
from ..ops.shapes import accumulate_dtype
from ..ops.tile_pattern import BYTES as TILE_BYTES
from ..ops.views import NARROW, TILES
from ..shards import nbytes
from .layer import PatternLayer
from .masked import MaskedLayer
from .sparse import SparseLayer

COLUMNS = ("values", "indices", "slack", "gradients", "optimizer", "scratch")
NUMBERS = range(1, len(COLUMNS) + 4)  # the columns of a report that hold numbers
SLOT_BYTES = {TILES: TILE_BYTES, NARROW: NARROW_BYTES}  # of a compact index for each position


@runtime_checkable
class Keeper(Protocol):
    """An object that keeps tensors for the weights of layers, such as `Sparsifier`."""

    def kept_bytes(self, layer: nn.Module) -> int: ...


@dataclass(frozen=True)
class MemoryReport:
    """Bytes per layer (`rows`) and over the model (`total`): `COLUMNS`, and `dense_<column>` of the dense twin.
    `print` shows them as a table, a notebook too."""

    rows: list[dict[str, Any]]

    @property
    def total(self) -> dict[str, int]:
        """The sums over all layers, by the names of the columns."""
        keys = [*COLUMNS, *(f"dense_{column}" for column in COLUMNS)]
        return {key: sum(row[key] for row in self.rows) for key in keys}

    def _table(self) -> list[list[str]]:
        rows = [*self.rows, {"name": "total", **self.total}]
        return [["layer", *COLUMNS, "total", "dense", "ratio"], *map(_cells, rows)]

    def __str__(self) -> str:
        return text.columns(self._table(), NUMBERS)

    def _repr_html_(self) -> str:
        """Returns the report as a notebook shows it."""
        return text.html(self._table(), NUMBERS)


def _cells(row: dict[str, Any]) -> list[str]:
    ours, dense = sum(row[column] for column in COLUMNS), sum(row[f"dense_{column}"] for column in COLUMNS)
    sizes = [*(row[column] for column in COLUMNS), ours, dense]
    return [row["name"], *map(text.size, sizes), f"{ours / max(1, dense):.3f}"]


def memory_report(model: nn.Module, optimizer: Any = None) -> MemoryReport:
    """Counts bytes of values, indices, slack, gradients, optimizer state and lasting workspace ("scratch") by layer.

    Counted from the tensors that exist; a gradient is counted for every parameter that requires one, whether it is
    allocated at this moment or not. Slack is the room for nonzeros that no nonzero uses: values, index, gradient and
    state. Scratch is what a dense product on an expanded weight takes and, where the weight is dense and only some of
    it multiplied, the copy of these entries. Layers whose weight is expanded panel by panel take turns with one
    workspace, which is counted for the one that needs most. Activations and the packed copies of them that the kernels
    keep per thread (64 columns of inputs and outputs for each of up to four panels) are not counted.
    Of weights that `fully_shard` has sharded those of this rank count.
    What a `Sparsifier` keeps for a layer's weights (`Sparsifier.kept_bytes`) counts as optimizer state.
    The dense twin has the optimizer's own state tensors at its size.

    Args:
        optimizer: the optimizer or `Sparsifier` of the model; its state is counted if given.

    Examples:
        >>> report = memory_report(sk.sparsify(model, 0.9))
        >>> report.total["values"], report.total["dense_values"]  # biases included
        (552, 4008)
    """
    state = {} if optimizer is None else optimizer.state
    rows = []
    layers = {name: m for name, m in model.named_modules() if isinstance(m, SparseLayer | MaskedLayer)}
    inside = {id(p) for layer in layers.values() for p in layer.parameters(recurse=False)}
    largest = max(layers.values(), key=_panel, default=None)
    for name, layer in layers.items():
        row = _masked_row(layer, state) if isinstance(layer, MaskedLayer) else _sparse_row(layer, state)
        if layer is largest:
            row["scratch"] += _panel(layer)
        if isinstance(optimizer, Keeper):
            row["optimizer"] += optimizer.kept_bytes(layer)
        if layer.bias is not None:
            bias = _dense_row("", layer.bias, state)
            row = {key: value + bias[key] for key, value in row.items()}
        rows.append({**row, "name": name or type(layer).__name__})
    rest = [(name, p) for name, p in model.named_parameters() if id(p) not in inside]
    for name, parameter in rest:
        rows.append(_dense_row(name, parameter, state))
    return MemoryReport(rows)


def _state_bytes(parameter: nn.Parameter, state: Any) -> int:
    return sum(nbytes(t) for t in state.get(parameter, {}).values() if isinstance(t, torch.Tensor) and t.dim() > 0)


def _dense_row(name: str, parameter: nn.Parameter, state: Any) -> dict[str, Any]:
    size = nbytes(parameter)
    own = {"values": size, "indices": 0, "slack": 0, "gradients": size * parameter.requires_grad, "scratch": 0}
    own["optimizer"] = _state_bytes(parameter, state)
    return {"name": name, **own, **{f"dense_{key}": value for key, value in own.items()}}


def _masked_row(layer: MaskedLayer, state: Any) -> dict[str, Any]:
    weight = layer.master
    copy = layer.topology.capacity * weight.element_size() * layer.copied
    row = _dense_row("", weight, state)
    if layer.weight_gradient == "moment":  # lives as long as the gradient does
        row["gradients"] += weight.numel() * accumulate_dtype(weight.dtype).itemsize
    return {**row, "indices": sum(t.nbytes for t in layer.index), "scratch": copy + _whole(layer)}


def _whole(layer: PatternLayer) -> int:
    """Bytes of the expanded weight, if every call makes one and keeps it for the gradients."""
    return prod(layer.weight_shape) * layer.stored.element_size() * layer.expands


def _panel(layer: PatternLayer) -> int:
    """Bytes of the panels of the expanded weight, if the layer's kernel has them."""
    size, device = prod(layer.weight_shape), layer.stored.device.type
    if layer.expands:
        return 0
    if layer.kernel != "dense" or (device == "cpu" and layer.topology.nnz == size):  # nothing is expanded
        return 0
    item = layer.stored.element_size()
    if extension is None or device != "cpu" or layer.operation is not None:
        return min(size * item, PANEL_BYTES)
    # In 16 bits it depends on the processor and the batch who multiplies.
    thread = THREAD_BLOCK_BYTES if item > 2 else THREAD_PANEL_BYTES
    return min(size * item, thread * torch.get_num_threads())


def _sparse_row(layer: SparseLayer, state: Any) -> dict[str, Any]:
    nnz, capacity = layer.topology.nnz, layer.values.numel()
    item, used = layer.values.element_size(), nnz / max(1, capacity)
    share = nbytes(layer.values) / max(1, capacity * item)  # of this rank
    index = sum(t.nbytes for t in layer.index)
    slots = sum(t.nbytes for t in layer.index if t.shape == (capacity,))
    slots += SLOT_BYTES.get(layer.topology.views, 0) * capacity
    gradient = item * layer.values.requires_grad
    moments = _state_bytes(layer.values, state)
    dense = prod(layer.weight_shape)
    return {
        "name": "",
        "values": round(share * nnz * item),
        "indices": index - round(slots * (1 - used)),
        "gradients": round(share * nnz * gradient),
        "optimizer": round(moments * used),
        "slack": round(share * (capacity - nnz) * (item + gradient)) + round((slots + moments) * (1 - used)),
        "scratch": _whole(layer),
        "dense_values": round(share * dense * item),
        "dense_indices": 0,
        "dense_slack": 0,
        "dense_gradients": round(share * dense * gradient),
        "dense_optimizer": round(moments / max(1, capacity) * dense),
        "dense_scratch": 0,
    }

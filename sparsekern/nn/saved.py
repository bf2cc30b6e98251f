"""Copies, pickles and state dicts of layers with a pattern; docs/files.md describes what files hold."""

from __future__ import annotations

import copy
import json
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import private_torch
from ..ops.csr import check_pattern
from ..topology import Topology
from . import copies, live_states
from .product import Product

if TYPE_CHECKING:
    from .layer import PatternLayer

LAYOUT = 1  # of the entries of a state dict, as docs/files.md describes them
OLD_BUFFERS = ("row_ptr", "col", "t_ptr", "t_row", "t_pos", "tile_ptr", "t_tile_ptr", "bits")  # of version 0.1
OLD_ATTRIBUTES = {"use": "workload", "part": "assignment", "window": "operation"}  # of older pickles


def is_csr(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.layout == torch.sparse_csr


def metadata(model: nn.Module) -> dict[str, str]:
    """Returns what a safetensors file says of itself: under "sparsekern", the shapes of the weights that it holds as
    vectors, one output a row, and which of them the dense layer has with its first two dimensions exchanged. One entry,
    since safetensors writes several in any order, and equal models shall have equal files."""
    layers: dict[str, Any] = {name: layer for name, layer in model.named_modules() if isinstance(layer, Product)}
    shapes = {name: list(layer.weight_shape) for name, layer in layers.items()}
    if not shapes:
        return {"format": "pt"}
    turned = [name for name, layer in layers.items() if layer.TRANSPOSED]
    noted = {"layout": LAYOUT, "shapes": shapes, **({"transposed": turned} if turned else {})}
    return {"sparsekern": json.dumps(noted)}


def copy_of(layer: PatternLayer, memo: dict[int, Any]) -> PatternLayer:
    """Returns a deep copy, which is known as one."""
    copied = type(layer).__new__(type(layer))
    memo[id(layer)] = copied
    copied.__setstate__(copy.deepcopy(layer.__getstate__(), memo))
    copies.note(layer, copied)
    return copied


def renamed(state: dict[str, Any]) -> dict[str, Any]:
    """Returns the attributes of a pickle by the names that they have now."""
    return {OLD_ATTRIBUTES.get(name, name): value for name, value in state.items()}


def update(layer: PatternLayer) -> None:
    """Gives a layer from an older pickle what layers have now."""
    weights, buffers = private_torch.parameters(layer), private_torch.buffers(layer)
    if "weight" in weights:  # of version 0.1
        named = {layer.WEIGHT if name == "weight" else name: weight for name, weight in weights.items()}
        weights.clear()
        weights.update(named)
    if "_index" not in vars(layer):  # of version 0.1, where the index tensors were buffers
        row_ptr, col = buffers["row_ptr"], buffers["col"]
        for name in OLD_BUFFERS:
            delattr(layer, name)
        layer._install(Topology.trusted(layer.weight_shape, row_ptr, col), layer.kernel, layer.reason)
    elif len(layer._index.compact) and layer._index.col.dim() == 1:  # when tiles stood beside `col`
        layer._index = layer._topology.index


def save(layer: PatternLayer, destination: dict, prefix: str) -> None:
    """Completes a state dict that has the Parameters of a layer."""
    copies.saved(layer)
    weight = destination[prefix + layer.WEIGHT] = layer.saved_weight(destination[prefix + layer.WEIGHT])
    # Copies: an EMA that blends a state dict in place must not reach the index.
    row_ptr = destination[prefix + "row_ptr"] = layer.row_ptr.clone()
    col = destination[prefix + "col"] = layer.col[: layer.topology.nnz].clone()
    live_states.note(layer, weight, row_ptr, col)


def load(
    layer: PatternLayer,
    state_dict: dict,
    prefix: str,
    local_metadata: dict,
    strict: bool,
    missing_keys: list,
    unexpected_keys: list,
    error_msgs: list,
) -> None:
    """Does what `nn.Module._load_from_state_dict` does, pattern included."""
    own = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
    alive = live_states.shared(layer)
    name = prefix + layer.WEIGHT
    try:
        if is_csr(own.get(prefix + "weight")):
            own.update(_entries(layer, own.pop(prefix + "weight"), prefix))
        saved = [own.get(name), own.pop(prefix + "row_ptr", None), own.pop(prefix + "col", None)]
        complete = all(tensor is not None for tensor in saved)
        source = copies.source_of(own.get(name)) if complete else None
        if complete:
            with torch.no_grad():
                own[name] = layer.adopt(*saved)  # type: ignore[arg-type]
    except ValueError as error:
        error_msgs.append(f"{name}: {error}")
        return
    if not complete and strict:
        missing_keys.extend(
            prefix + key for key, tensor in zip(("row_ptr", "col"), saved[1:], strict=True) if tensor is None
        )
        if layer.stored.shape != layer.weight_shape:  # nonzeros mean nothing without their pattern
            own.pop(name, None)
    nn.Module._load_from_state_dict(
        layer, own, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    )
    layer._follow_weight()  # `assign=True` may bring a weight of another device
    copies.synchronized(layer, source)
    live_states.renew(alive, layer)


def _entries(layer: PatternLayer, csr: Tensor, prefix: str) -> dict[str, Tensor]:
    """Returns the entries of a state dict for a CSR tensor of PyTorch, the weight viewed as a matrix."""
    shape = (layer.weight_shape[0], prod(layer.weight_shape[1:]))
    if csr.shape != shape:
        raise ValueError(f"expected a CSR tensor of shape {shape}, got {tuple(csr.shape)}")
    pattern = {"row_ptr": csr.crow_indices(), "col": csr.col_indices()}
    parts = {"values": csr.values(), **{key: part.to(torch.int32) for key, part in pattern.items()}}
    return {prefix + key: part for key, part in parts.items()}


def adopt_pattern(layer: PatternLayer, row_ptr: Tensor, col: Tensor, capacity: int) -> Topology:
    """Installs a saved pattern with a capacity of so many nonzeros."""
    rows, cols, nnz = layer.weight_shape[0], prod(layer.weight_shape[1:]), col.numel()
    if row_ptr.shape != (rows + 1,) or int(row_ptr[-1]) != nnz:
        found = f"{row_ptr.numel() - 1} rows that end with {int(row_ptr[-1])}" if row_ptr.numel() else "none"
        raise ValueError(f"expected {rows} rows that end with the last of {nnz} columns, got {found}")
    check_pattern(row_ptr, col, cols)
    old = layer.topology
    device = layer._index_device(old)
    padded = torch.zeros(capacity, dtype=torch.int32, device=device)
    padded[:nnz] = col
    # A copy: a state dict holds the tensors of the model it was taken from.
    topology = Topology.trusted(layer.weight_shape, row_ptr.to(device, torch.int32, copy=True), padded)
    layer.loads += capacity != old.capacity or not topology.same_pattern(old)
    layer.set_topology(topology)
    return topology

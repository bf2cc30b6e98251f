"""Copies, pickles and state dicts of layers with a pattern; docs/files.md describes what files hold."""

from __future__ import annotations

import copy
import json
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.csr import check_pattern
from ..topology import Topology
from . import copies, live_states
from .layer import PatternLayer

LAYOUT = 1  # of the entries of a state dict, as docs/files.md describes them
OLD_BUFFERS = ("row_ptr", "col", "t_ptr", "t_row", "t_pos", "tile_ptr", "t_tile_ptr", "bits")  # of version 0.1
OLD_ATTRIBUTES = {"use": "workload", "part": "assignment"}  # of older pickles, and what they are called now


AS_IT_IS: Any = PatternLayer.weight_of.__func__  # type: ignore[attr-defined]


def is_csr(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.layout == torch.sparse_csr


def metadata(model: nn.Module) -> dict[str, str]:
    """Returns what a safetensors file says of itself: under "sparsekern", the shapes of the weights that it holds as
    vectors, one output a row, and which of them the dense layer has with its first two dimensions exchanged. One entry,
    since safetensors writes several in any order, and equal models shall have equal files."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, PatternLayer)}
    shapes = {name: list(layer.weight_shape) for name, layer in layers.items()}
    if not shapes:
        return {"format": "pt"}
    turned = [name for name, layer in layers.items() if type(layer).weight_of.__func__ is not AS_IT_IS]  # type: ignore[attr-defined]
    noted = {"layout": LAYOUT, "shapes": shapes, **({"transposed": turned} if turned else {})}
    return {"sparsekern": json.dumps(noted)}


class SavedLayer(PatternLayer):
    """A layer that can be copied, pickled, saved and loaded, pattern included."""

    def adopt(self, weight: Tensor, row_ptr: Tensor, col: Tensor) -> Tensor:
        """Installs a saved pattern; returns the saved weight as the Parameter holds it."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> SavedLayer:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        copies.note(self, copied)
        return copied

    def check_copy(self) -> None:
        """Refuses to compute with weights that were written to a copy, as those of another pattern."""
        if self.outdated and copies.written(self):
            raise RuntimeError(
                f"this {type(self).__name__} is a copy that got weights of another pattern than it has: averages of a "
                "model whose pattern changes (EMA, SWA) must be given to Sparsifier(followers=)"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state of copies and pickles. They are not armed, whatever this layer records at the moment, and
        they are in step with this layer, whatever it is a copy of."""
        return {**self.__dict__, "probe": None, "outdated": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({OLD_ATTRIBUTES.get(name, name): value for name, value in state.items()})
        if "weight" in self._parameters:  # of version 0.1
            weights = self._parameters
            self._parameters = {self.WEIGHT if name == "weight" else name: weights[name] for name in weights}
        if "_index" not in state:  # of version 0.1, where the index tensors were buffers
            buffers: Any = self._buffers
            row_ptr, col, *_ = (buffers.pop(name) for name in OLD_BUFFERS)
            self._non_persistent_buffers_set.difference_update(OLD_BUFFERS)
            self._install(Topology.trusted(self.weight_shape, row_ptr, col), self.kernel, self.reason)
        elif len(self._index.compact) and self._index.col.dim() == 1:  # when tiles stood beside `col`
            self._index = self._topology.index

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        copies.saved(self)
        weight = destination[prefix + self.WEIGHT] = self.saved_weight(destination[prefix + self.WEIGHT])
        # Copies: an EMA that blends a state dict in place must not reach the index.
        row_ptr = destination[prefix + "row_ptr"] = self.row_ptr.clone()
        col = destination[prefix + "col"] = self.col[: self.topology.nnz].clone()
        live_states.note(self, weight, row_ptr, col)

    def _load_from_state_dict(
        self,
        state_dict: dict,
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list,
        unexpected_keys: list,
        error_msgs: list,
    ) -> None:
        own = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        alive = live_states.shared(self)
        name = prefix + self.WEIGHT
        try:
            if is_csr(own.get(prefix + "weight")):
                own.update(self._parts(own.pop(prefix + "weight"), prefix))
            saved = [own.get(name), own.pop(prefix + "row_ptr", None), own.pop(prefix + "col", None)]
            complete = all(tensor is not None for tensor in saved)
            source = copies.source_of(own.get(name)) if complete else None
            if complete:
                with torch.no_grad():
                    own[name] = self.adopt(*saved)  # type: ignore[arg-type]
        except ValueError as error:
            error_msgs.append(f"{name}: {error}")
            return
        if not complete and strict:
            missing_keys.extend(
                prefix + key for key, tensor in zip(("row_ptr", "col"), saved[1:], strict=True) if tensor is None
            )
            if self.stored.shape != self.weight_shape:  # nonzeros mean nothing without their pattern
                own.pop(name, None)
        super()._load_from_state_dict(own, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        self._follow_weight()  # `assign=True` may bring a weight of another device
        copies.synchronized(self, source)
        live_states.renew(alive, self)

    def _parts(self, csr: Tensor, prefix: str) -> dict[str, Tensor]:
        """Returns the entries of a state dict for a CSR tensor of PyTorch, the weight viewed as a matrix."""
        shape = (self.weight_shape[0], prod(self.weight_shape[1:]))
        if csr.shape != shape:
            raise ValueError(f"expected a CSR tensor of shape {shape}, got {tuple(csr.shape)}")
        pattern = {"row_ptr": csr.crow_indices(), "col": csr.col_indices()}
        parts = {"values": csr.values(), **{key: part.to(torch.int32) for key, part in pattern.items()}}
        return {prefix + key: part for key, part in parts.items()}

    def _adopt_pattern(self, row_ptr: Tensor, col: Tensor, capacity: int) -> Topology:
        """Installs a saved pattern with room for `capacity` nonzeros."""
        rows, cols, nnz = self.weight_shape[0], prod(self.weight_shape[1:]), col.numel()
        if row_ptr.shape != (rows + 1,) or int(row_ptr[-1]) != nnz:
            found = f"{row_ptr.numel() - 1} rows that end with {int(row_ptr[-1])}" if row_ptr.numel() else "none"
            raise ValueError(f"expected {rows} rows that end with the last of {nnz} columns, got {found}")
        check_pattern(row_ptr, col, cols)
        old = self.topology
        device = self._index_device(old)
        padded = torch.zeros(capacity, dtype=torch.int32, device=device)
        padded[:nnz] = col
        # A copy: a state dict holds the tensors of the model it was taken from.
        topology = Topology.trusted(self.weight_shape, row_ptr.to(device, torch.int32, copy=True), padded)
        self.loads += capacity != old.capacity or not topology.same_pattern(old)
        self.set_topology(topology)
        return topology

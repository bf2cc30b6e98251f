"""Counts the memory of a training step line by line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import memory_report
from ..nn.layer import PatternLayer
from ..nn.memory import COLUMNS

LINES = (*COLUMNS, "activations")


def count(network: nn.Module, optimizer: Any, forward: Callable[[], Tensor]) -> dict[str, int]:
    """Returns the bytes of each of `LINES`, after at least one step of the optimizer.

    "activations" are the tensors that `forward`, which returns the loss, saves for the backward pass, the input
    included; tensors that share memory count once, Parameters, buffers and indices not at all. The other lines are
    those of `memory_report`.
    """
    total = memory_report(network, optimizer).total
    return {column: total[column] for column in COLUMNS} | {"activations": saved(network, forward)}


def saved(network: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Returns the bytes that a forward pass saves for the backward pass, beside what the network holds anyway."""
    held = [*network.parameters(), *network.buffers()]
    held += [tensor for layer in network.modules() if isinstance(layer, PatternLayer) for tensor in layer.index]
    own = {tensor.untyped_storage().data_ptr() for tensor in held}
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # kept, so that no other gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in storages.values())

"""Layers by operators of PyTorch alone, the only ones that ONNX and `torch.func` know."""

from __future__ import annotations

from math import prod

from torch import Tensor

from ..private_torch import unrecorded
from .layer import PatternLayer


def plain_output(layer: PatternLayer, input: Tensor) -> Tensor:
    """Computes the forward pass of a layer."""
    return layer.dense_product(layer.prepare(input), plain_weight(layer))


def plain_weight(layer: PatternLayer) -> Tensor:
    """Returns the weight of a layer as a dense tensor of `weight_shape`, scattered from its entries.

    In a graph for ONNX both are constants, and what runs the graph scatters once, when it loads it: the file holds the
    nonzeros only."""
    size = prod(layer.weight_shape)
    with unrecorded():
        coordinates = layer.topology.coordinates()
        if size < 2**31:
            coordinates = coordinates.int()  # half the size in the file
    coordinates = coordinates.long()
    entries = layer.entries(coordinates)
    return entries.new_zeros(size).scatter(0, coordinates, entries).reshape(layer.weight_shape)

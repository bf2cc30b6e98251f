"""ONNX graphs of models with sparse layers, whose files hold the nonzeros only."""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import require
from ..nn import SparseLayer, exchange
from .states import nonzeros


def program(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Any:
    """Returns the `torch.onnx.ONNXProgram` of a model in evaluation mode, for any number of samples.

    A sparse weight is scattered from its nonzeros, which onnxruntime does once, when it loads the file. Where that
    would take more bytes than the dense weight, the graph has the dense one.

    Args:
        example: an input, or a tuple of several, whose first dimension is the batch.

    Raises:
        UsageError: onnx or onnxscript are missing.
    """
    for package in ("onnx", "onnxscript"):
        require(package, extra="onnx")
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    names = ["input"] if len(inputs) == 1 else [f"input{i}" for i in range(len(inputs))]
    model = nonzeros(model).eval()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, SparseLayer)}
    model = exchange(model, {name: layer.to_dense() for name, layer in layers.items() if not _worth_it(layer)})
    return torch.onnx.export(
        model,
        inputs,
        dynamo=True,
        verbose=False,
        input_names=names,
        output_names=["output"],
        dynamic_shapes=tuple({0: "batch"} for _ in inputs),
    )


def _worth_it(layer: SparseLayer) -> bool:
    size = layer.values.element_size()
    return layer.topology.nnz * (size + 4) < prod(layer.weight_shape) * size  # int32 coordinates

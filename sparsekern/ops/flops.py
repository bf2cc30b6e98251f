"""Tells PyTorch's `FlopCounterMode` what to count: a multiplication and an addition for each nonzero and
sample, or position of a sample, whatever kernel multiplies; biases are not counted there either.

So "dense" kernels, which execute dense products, count as sparse ones do. Products that a layer leaves to PyTorch
itself ("masked" kernels, straight-through gradients) are counted by PyTorch, as the dense products that they are.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..private_torch import FakeTensor

COUNTER = "torch.utils.flop_counter"


def _nonzeros(index: list[Tensor]) -> int:
    """Counts the nonzeros of an index; for tensors without data, the room for them."""
    row_ptr, col, *_ = index
    unknown = isinstance(row_ptr, FakeTensor) or row_ptr.device.type == "meta"
    return col.shape[0] if unknown else int(row_ptr[-1])


def _positions(features: Tensor) -> int:
    """Counts the positions of `[*, features]`."""
    return prod(features.shape[:-1])


def _pixels(images: Tensor) -> int:
    return images.shape[0] * prod(images.shape[2:])


def _product(input: Tensor, values: Tensor, index: list[Tensor], *rest: Any, out_val: Tensor) -> int:
    return 2 * _nonzeros(index) * _positions(input)


def _convolution(input: Tensor, values: Tensor, index: list[Tensor], *rest: Any, out_val: Tensor) -> int:
    return 2 * _nonzeros(index) * _pixels(out_val)


def _gradients(
    places: int, weight: Tensor, index: list[Tensor], need_input: bool, need_weight: bool, need_bias: bool, *rest: Any
) -> int:
    """Counts the operations of the gradients of a product at so many places. The gradient of a dense weight is dense
    unless `active`, the last of `rest`."""
    nonzeros = _nonzeros(index)
    dense = weight.dim() > 1 and not rest[-1]
    return 2 * places * (need_input * nonzeros + need_weight * (weight.numel() if dense else nonzeros))


def _product_backward(grad_output: Tensor, input: Tensor, *given: Any, out_val: Any) -> int:
    return _gradients(_positions(input), *given)


def _convolution_backward(grad_output: Tensor, input: Tensor, *given: Any, out_val: Any) -> int:
    return _gradients(_pixels(grad_output), *given)


def _sampled(grad_output: Tensor, input: Tensor, coordinates: Tensor, *geometry: Any, out_val: Tensor) -> int:
    return 2 * coordinates.numel() * (_pixels(grad_output) if geometry else _positions(input))


def _moment(grad_output: Tensor, input: Tensor, *geometry: Any, out_val: Sequence[Tensor]) -> int:
    """Counts the gradient, and the square of what every sample contributes to it, added."""
    places = _pixels(grad_output) if geometry else _positions(input)
    return 2 * out_val[0].numel() * (places + input.shape[0])


FORMULAS = {
    _product: ("sparse_linear", "expanded_linear", "masked_linear"),
    _product_backward: ("sparse_linear_backward", "expanded_linear_backward", "masked_linear_backward"),
    _convolution: ("sparse_conv2d", "expanded_conv2d", "masked_conv2d"),
    _convolution_backward: ("sparse_conv2d_backward", "expanded_conv2d_backward", "masked_conv2d_backward"),
    _sampled: ("sampled_gradient", "sampled_conv2d_gradient"),
    _moment: ("gradient_moment", "conv2d_gradient_moment"),
}


def _register(counter: ModuleType) -> None:
    for formula, names in FORMULAS.items():
        counter.register_flop_formula([getattr(torch.ops.sparsekern, name) for name in names], get_raw=True)(formula)


class _Registering(Loader):
    """Loads the counter, then gives it the formulas."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _register(module)


class _Waiting(MetaPathFinder):
    """Waits for the import of the counter. To import it here would bring Triton, whose import takes as long as that of
    the whole package."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


if COUNTER in sys.modules:
    _register(sys.modules[COUNTER])
else:
    sys.meta_path.insert(0, _Waiting())

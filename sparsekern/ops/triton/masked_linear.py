"""Linear layers with a dense weight under a bitmask: convolutions of images of one pixel."""

from collections.abc import Sequence
from math import prod

from torch import Tensor

from ..conv_geometry import ConvGeometry
from ..index import Index
from .blocks import by_tap
from .launch import precision
from .masked_conv2d import Product, active_gradient, forward, input_gradient

PIXEL = ConvGeometry([1, 1], [1, 1], [0, 0, 0, 0], [1, 1], 1)  # of a linear layer


def masked_linear(input: Tensor, weight: Tensor, index: Sequence[Tensor], bias: Tensor | None, active: bool) -> Tensor:
    """`input @ (W * mask).T + bias`."""
    output = input.new_empty(*input.shape[:-1], weight.shape[0])
    forward(_images(input), _images(weight), bias, _images(output), _product(weight, index))
    return output


def masked_linear_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    index: Sequence[Tensor],
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    active: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `masked_linear`; what is not needed is returned with no elements. The dense gradient of the weight
    has nothing to be masked: cuBLAS computes it."""
    product, delta = _product(weight, index), _images(grad_output)
    grad_input, grad_weight = input.new_empty(0), weight.new_empty(0)
    if need_input:
        grad_input = input.new_empty(input.shape)
        input_gradient(delta, _images(weight), _images(grad_input), product)
    if need_weight and active:
        grad_weight = active_gradient(delta, _images(input), _images(weight), product).view(weight.shape)
    elif need_weight:
        grad_weight = delta[:, :, 0, 0].t() @ _images(input)[:, :, 0, 0]
    grad_bias = delta[:, :, 0, 0].sum(0).to(weight.dtype) if need_bias else weight.new_empty(0)
    return grad_input, grad_weight, grad_bias


def _images(tensor: Tensor) -> Tensor:
    """`[*, features]` as `[samples, features, 1, 1]`."""
    return tensor.reshape(prod(tensor.shape[:-1]), tensor.shape[-1])[:, :, None, None]


def _product(weight: Tensor, index: Sequence[Tensor]) -> Product:
    return Product(by_tap(Index.of(index).bits, weight.shape[1], 1), PIXEL, precision())

"""Derivatives: Python that calls operators.

Registered straight at the dispatcher's autograd key: `torch.library.register_autograd` flattens and rebuilds tensor
lists, which takes longer than the products of a small layer.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..private_torch import below_autograd, in_forward_mode
from .schema import library


def _dual(tensor: Tensor | None) -> tuple[Any, Tensor | None]:
    """A tensor and its tangent in forward mode, if it has one."""
    return (None, None) if tensor is None else forward_ad.unpack_dual(tensor)


def _register(name: str, windowed: bool) -> None:
    """Gradients of `name(input, values, index, bias, *geometry)` by `name_backward`, which takes the geometry of a
    window over an image, too, and what else follows it; no tensors are in it. Tangents (`torch.func.jvp`) by `name`
    itself, which is linear in each tensor."""
    op = getattr(torch.ops.sparsekern, name).default
    backward_op = getattr(torch.ops.sparsekern, f"{name}_backward").default
    # Below the record of views, too: a result of which a kernel made one may be changed in place as any other.

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(  # type: ignore[override]
            ctx: Any, input: Tensor, values: Tensor, bias: Tensor | None, index: list[Tensor], *geometry: Any
        ) -> Tensor:
            ctx.save_for_backward(input, values, *index)
            ctx.window = geometry if windowed else ()
            ctx.geometry = len(geometry)
            with below_autograd():
                return op(input, values, index, bias, *geometry)

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> tuple:  # type: ignore[override]
            if torch.is_grad_enabled():
                # The operator below has no formula of its own: its results would pass for constants.
                raise RuntimeError("sparse layers have no second derivatives: do without create_graph=True")
            input, values, *index = ctx.saved_tensors
            need_input, need_values, need_bias = need = ctx.needs_input_grad[:3]
            gradients = backward_op(grad_output, input, values, index, need_input, need_values, need_bias, *ctx.window)
            given = (gradient if needed else None for gradient, needed in zip(gradients, need, strict=True))
            return *given, None, *[None] * ctx.geometry

    def product(input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, *geometry: Any) -> Tensor:
        if in_forward_mode():
            (input, d_input), (values, d_values), (bias, d_bias) = map(_dual, (input, values, bias))
            if not d_input is d_values is d_bias is None:
                output = product(input, values, index, bias, *geometry)
                d_input = torch.zeros_like(input) if d_input is None else d_input
                tangent = product(d_input, values, index, d_bias, *geometry)
                if d_values is not None:
                    tangent = tangent + product(input, d_values, index, None, *geometry)
                return forward_ad.make_dual(output, tangent)
        if torch.is_grad_enabled() and (
            input.requires_grad or values.requires_grad or (bias is not None and bias.requires_grad)
        ):
            return Product.apply(input, values, bias, index, *geometry)
        with below_autograd():
            return op(input, values, index, bias, *geometry)

    library.impl(name, product, "Autograd")


for _name in ("sparse_linear", "expanded_linear"):
    _register(_name, windowed=False)
for _name in ("sparse_conv2d", "expanded_conv2d", "masked_linear", "masked_conv2d"):
    _register(_name, windowed=True)

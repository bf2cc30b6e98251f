"""Derivatives: code that calls operators, registered straight at the dispatcher's autograd key.

csrc/autograd.cpp if it was compiled for this very version of PyTorch, else the same in Python, where a step of a layer
takes longer. (`torch.library.register_autograd` flattens and rebuilds tensor lists, which takes more yet.)
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..private_torch import below_autograd, in_forward_mode
from .backend import autograd_extension
from .library import library
from .transforms import NO_SECOND_DERIVATIVES


def _dual(tensor: Tensor | None) -> tuple[Any, Tensor | None]:
    """Returns a tensor and its tangent in forward mode, if it has one."""
    return (None, None) if tensor is None else forward_ad.unpack_dual(tensor)


def _register(name: str, passed_on: bool) -> None:
    """Registers the derivatives of `name(input, values, index, bias, *options)`; no tensors are among the options.

    Gradients are those of `name_backward`, which takes the options, too, if they are `passed_on`. Tangents
    (`torch.func.jvp`) are products of `name` itself, which is linear in each tensor.
    """
    op = getattr(torch.ops.sparsekern, name).default
    backward_op = getattr(torch.ops.sparsekern, f"{name}_backward").default
    # Below the record of views, too: a result of which a kernel made one may be changed in place as any other.

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(  # type: ignore[override]
            ctx: Any, input: Tensor, values: Tensor, bias: Tensor | None, index: list[Tensor], *options: Any
        ) -> Tensor:
            ctx.save_for_backward(input, values)
            ctx.index = index  # never differentiated nor changed, and kept by its layer
            ctx.passed_on = options if passed_on else ()
            ctx.options = len(options)
            with below_autograd():
                return op(input, values, index, bias, *options)

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> tuple:  # type: ignore[override]
            if torch.is_grad_enabled():
                raise RuntimeError(NO_SECOND_DERIVATIVES)
            input, values = ctx.saved_tensors
            need = ctx.needs_input_grad[:3]
            gradients = backward_op(grad_output, input, values, ctx.index, *need, *ctx.passed_on)
            given = (gradient if needed else None for gradient, needed in zip(gradients, need, strict=True))
            return *given, None, *[None] * ctx.options

    def product(input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, *options: Any) -> Tensor:
        if in_forward_mode():
            (input, d_input), (values, d_values), (bias, d_bias) = map(_dual, (input, values, bias))
            if not d_input is d_values is d_bias is None:
                output = product(input, values, index, bias, *options)
                d_input = torch.zeros_like(input) if d_input is None else d_input
                tangent = product(d_input, values, index, d_bias, *options)
                if d_values is not None:
                    tangent = tangent + product(input, d_values, index, None, *options)
                return forward_ad.make_dual(output, tangent)
        if torch.is_grad_enabled() and (
            input.requires_grad or values.requires_grad or (bias is not None and bias.requires_grad)
        ):
            try:
                return Product.apply(input, values, bias, index, *options)
            except RuntimeError as error:
                if "functorch transforms" in str(error):  # that they want functions of another form is not the reason
                    raise RuntimeError(NO_SECOND_DERIVATIVES) from None
                raise
        with below_autograd():
            return op(input, values, index, bias, *options)

    library.impl(name, product, "Autograd")


PRODUCTS = {  # and whether their options are passed on
    "sparse_linear": False,
    "expanded_linear": False,
    "sparse_conv2d": True,
    "expanded_conv2d": True,
    "masked_linear": True,
    "masked_conv2d": True,
}
for _name, _passed_on in PRODUCTS.items():
    if autograd_extension is None:
        _register(_name, _passed_on)
    else:
        autograd_extension.differentiate(_name)

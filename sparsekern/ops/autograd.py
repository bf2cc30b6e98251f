"""Backward formulas: Python that calls operators.

Registered straight at the dispatcher's autograd key: `torch.library.register_autograd` flattens and rebuilds tensor
lists, which takes longer than the products of a small layer.
"""

from typing import Any

import torch
from torch import Tensor

from .schema import library


def _register_linear(name: str) -> None:
    op = getattr(torch.ops.sparsekern, name).default
    backward_op = getattr(torch.ops.sparsekern, f"{name}_backward").default
    below = torch._C._AutoDispatchBelowAutograd

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(  # type: ignore[override]
            ctx: Any, input: Tensor, values: Tensor, bias: Tensor | None, index: list[Tensor], out_features: int
        ) -> Tensor:
            ctx.save_for_backward(input, values, *index)
            with below():
                return op(input, values, index, bias, out_features)

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> tuple:  # type: ignore[override]
            if torch.is_grad_enabled():
                # The operator below has no formula of its own: its results would pass for constants.
                raise RuntimeError("sparse layers have no second derivatives: do without create_graph=True")
            input, values, *index = ctx.saved_tensors
            need_input, need_values, need_bias = need = ctx.needs_input_grad[:3]
            gradients = backward_op(grad_output, input, values, index, need_input, need_values, need_bias)
            return *(gradient if needed else None for gradient, needed in zip(gradients, need, strict=True)), None, None

    def linear(input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, out_features: int) -> Tensor:
        if torch.is_grad_enabled() and (
            input.requires_grad or values.requires_grad or (bias is not None and bias.requires_grad)
        ):
            return Linear.apply(input, values, bias, index, out_features)
        with below():
            return op(input, values, index, bias, out_features)

    library.impl(name, linear, "Autograd")


for _name in ("sparse_linear", "expanded_linear"):
    _register_linear(_name)

"""Backward formulas: Python that calls operators."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .schema import library


def _setup_linear(ctx: Any, inputs: tuple, output: Tensor) -> None:
    input, values, index, bias, _ = inputs
    ctx.save_for_backward(input, values, *index)
    ctx.has_bias = bias is not None


def _linear_backward(op: Any) -> Callable:
    def backward(ctx: Any, grad_output: Tensor) -> tuple:
        input, values, *index = ctx.saved_tensors
        need = ctx.needs_input_grad
        need_bias = ctx.has_bias and need[3]
        grad_input, grad_values, grad_bias = op(grad_output, input, values, index, need[0], need[1], need_bias)
        return (
            grad_input if need[0] else None,
            grad_values if need[1] else None,
            [None] * len(index),
            grad_bias if need_bias else None,
            None,
        )

    return backward


for _name in ("sparse_linear", "expanded_linear"):
    torch.library.register_autograd(
        f"sparsekern::{_name}",
        _linear_backward(getattr(torch.ops.sparsekern, f"{_name}_backward")),
        setup_context=_setup_linear,
        lib=library,
    )

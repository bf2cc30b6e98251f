"""Counts the floating-point operations of a model, beside those of the dense twin."""

import copy
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..private_torch import tree_leaves
from .conversion.convert import with_dense_layers
from .layer import PatternLayer
from .masked import MaskedLayer


@dataclass(frozen=True)
class Flops:
    """The operations of one forward and one backward pass, of the model (`forward`, `backward`) and of its dense
    twin."""

    forward: int
    backward: int
    dense_forward: int
    dense_backward: int

    def __str__(self) -> str:
        parts = [
            f"{name} {ours:.3g} of {dense:.3g} ({ours / max(1, dense):.3f})"
            for name, ours, dense in (
                ("forward", self.forward, self.dense_forward),
                ("backward", self.backward, self.dense_backward),
            )
        ]
        return f"FLOPs: {', '.join(parts)}"


def _backward(delta: Any, input: Any, weight: Any, *settings: Any, out_shape: Any) -> int:
    """Counts the backward pass of a convolution. PyTorch's own formula counts the gradient of a grouped weight once for
    every group."""
    transposed, mask = settings[4], settings[7]
    return 2 * prod(input if transposed else delta) * prod(weight[1:]) * sum(mask[:2])


def flops(model: nn.Module, *inputs: Any, **options: Any) -> Flops:
    """Counts the floating-point operations of one forward and backward pass of `model(*inputs, **options)`; a
    multiplication and an addition are two.

    Counted as papers on sparse training do (Evci et al., RigL, appendix H): products only, and in a layer with a
    pattern those of its nonzeros, whatever kernel multiplies them. The backward pass has the gradient of the layer's
    input, where there is one to compute, and that of the weight: of the nonzeros too, or, of a `MaskedLayer` whose
    `weight_gradient` is not "active", at every entry. What a method computes beside, to score or to grow, is not in it.
    The dense twin is a copy that is run here, in evaluation mode; the model itself is not.

    Args:
        inputs, options: what the model is called with, on its device: one sample, for the numbers of one.

    Examples:
        >>> counted = flops(sk.sparsify(model, 0.9), x)
        >>> counted.forward / counted.dense_forward
        0.1
    """
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton, which takes its time

    twin = with_dense_layers(copy.deepcopy(model)).eval()
    saved = [0, 0]  # of what the twin multiplies: forward, backward
    for name, layer in model.named_modules():
        if not isinstance(layer, PatternLayer):
            continue
        absent = prod(layer.weight_shape) - layer.topology.nnz
        dense = isinstance(layer, MaskedLayer) and layer.weight_gradient != "active"
        weight = layer.stored.requires_grad and not dense

        def count(_: nn.Module, given: tuple, output: Tensor, layer=layer, absent=absent, weight=weight) -> None:
            if not given:  # a weight that its owner multiplies
                return
            products = 2 * layer.multiplications_per_weight(given[0], output) * absent
            saved[0] += products
            saved[1] += products * (given[0].requires_grad + weight)

        twin.get_submodule(name).register_forward_hook(count)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward})
    with torch.enable_grad(), counter:
        outputs = twin(*inputs, **options)
        forward = counter.get_total_flops()
        ends = [t for t in tree_leaves(outputs) if isinstance(t, Tensor) and t.requires_grad]
        if ends:
            torch.autograd.backward(ends, [torch.ones_like(t) for t in ends])
        backward = counter.get_total_flops() - forward
    return Flops(forward - saved[0], backward - saved[1], forward, backward)

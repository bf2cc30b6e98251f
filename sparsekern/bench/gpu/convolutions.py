"""The products of a convolution on images that lie channels_last."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ..conv_cases import Conv
from .case import Case, held, weight

_ops = torch.ops.sparsekern


def convolution_cases(shape: tuple[int, ...], sparsity: float, dtype: torch.dtype, device: torch.device) -> list[Case]:
    channels, out, size, stride, image, batch = shape
    topology, values, master = weight((out, channels, size, size), sparsity, dtype, device)
    dense, mask = topology.dense(values), topology.mask()
    last = torch.channels_last
    # as a network that is channels_last has them
    laid, over, hidden = (t.contiguous(memory_format=last) for t in (dense, master, mask))
    x = torch.randn(batch, channels, image, image, device=device).to(dtype).contiguous(memory_format=last)
    window: tuple = ([size] * 2, [stride] * 2, [size // 2] * 4, [1, 1], 1)
    y = functional.conv2d(x, dense, None, stride, size // 2)
    dy = torch.randn(y.shape, device=device).to(dtype).contiguous(memory_format=last)
    index, at = topology.index, topology.coordinates()
    make = partial(Case, dtype=dtype, sparsity=sparsity, batch=batch, bytes=held(topology, values, dense))
    wide = [t.double() for t in (x, dense, dy)]

    def gradient(op: str, i: int) -> Callable[[], Tensor]:
        needs = [k == i for k in range(3)]
        if op == "masked_conv2d":
            return lambda: _ops.masked_conv2d_backward(dy, x, master, index, *needs, *window, True)[i]
        return lambda: getattr(_ops, f"{op}_backward")(dy, x, values, index, *needs, *window)[i]

    def conv(weight: Tensor) -> Tensor:
        return functional.conv2d(x, weight, None, stride, size // 2)

    def dense_gradient(weight: Tensor, i: int) -> Tensor:
        return _gradients(dy, x, weight, stride, size // 2, i)

    forwards = {
        "dense": lambda: conv(laid),
        "masked": lambda: conv(over * hidden),
        "sparsekern-expanded": lambda: _ops.expanded_conv2d(x, values, index, None, *window),
        "sparsekern-bits": lambda: _ops.sparse_conv2d(x, values, index, None, *window),
        "sparsekern-fused": lambda: _ops.masked_conv2d(x, master, index, None, *window, False),
    }
    inputs = {
        "dense": lambda: dense_gradient(laid, 0),
        "masked": lambda: dense_gradient(over * hidden, 0),
        "sparsekern-expanded": gradient("expanded_conv2d", 0),
        "sparsekern-bits": gradient("sparse_conv2d", 0),
        "sparsekern-fused": gradient("masked_conv2d", 0),
    }
    weights = {
        "dense": lambda: dense_gradient(laid, 1),
        "masked": lambda: dense_gradient(laid, 1) * hidden,
        "sparsekern-expanded": gradient("expanded_conv2d", 1),
        "sparsekern-bits": gradient("sparse_conv2d", 1),
        "sparsekern-fused": gradient("masked_conv2d", 1),
    }
    name = Conv(channels, out, image, batch, sparsity, size, stride).shape
    return [
        make(
            f"forward {name}",
            calls=forwards,
            expected=lambda: [functional.conv2d(wide[0], wide[1], None, stride, size // 2)],
        ),
        make(
            f"input_gradient {name}",
            calls=inputs,
            expected=lambda: [_gradients(wide[2], wide[0], wide[1], stride, size // 2, 0)],
        ),
        make(
            f"weight_gradient {name}",
            calls=weights,
            expected=lambda: [_gradients(wide[2], wide[0], wide[1], stride, size // 2, 1)],
            at=at,
        ),
    ]


def _gradients(dy: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, i: int) -> Tensor:
    needs = [k == i for k in range(3)]
    geometry = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
    return torch.ops.aten.convolution_backward(dy, x, weight, None, *geometry, needs)[i]

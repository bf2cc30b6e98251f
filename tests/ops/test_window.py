"""Convolutions with windows and operands beyond what networks have, against PyTorch's dense one."""

import math
import random
import resource
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sparsekern import Topology, ops

WIDE: dict[str, dict[str, Any]] = {
    "stride": {"stride": 5000},
    "stride and padding": {"stride": 5000, "padding": 5000},
    "dilation": {"dilation": 3000, "padding": 3000},
    "dilation of rows": {"dilation": (3000, 1), "padding": (3000, 1)},
    "dilation of columns": {"dilation": (1, 3000), "padding": (1, 3000)},
    "both": {"dilation": (3000, 700), "padding": (3000, 700), "stride": (2, 3)},
}


@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("name", WIDE)
def test_wide_windows(name: str, batch: int) -> None:
    """As PyTorch's convolution; whatever lies between the pixels that are seen takes no memory."""
    window = WIDE[name]
    topology = Topology.random((4, 2, 3, 3), 45)
    x = torch.randn(batch, 4, 8, 9, dtype=torch.double, requires_grad=True)
    values = torch.randn(45, dtype=torch.double, requires_grad=True)
    weight = topology.dense(values.detach()).requires_grad_()
    y = x.detach().clone().requires_grad_()
    want = torch.nn.functional.conv2d(y, weight, **window, groups=2)
    delta = torch.randn_like(want)
    wanted = torch.autograd.grad(want, (y, weight), delta)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    got = ops.sparse_conv2d(x, values, topology.index, kernel_size=3, groups=2, **window)
    found = torch.autograd.grad(got, (x, values), delta)
    gradient, moment = ops.conv2d_gradient_moment(delta, x.detach(), kernel_size=3, groups=2, **window)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1], topology.gather(wanted[1]))
    torch.testing.assert_close(gradient, wanted[1])
    shares = [
        torch.nn.grad.conv2d_weight(x[n : n + 1].detach(), weight.shape, delta[n : n + 1], **window, groups=2)
        for n in range(batch)
    ]
    torch.testing.assert_close(moment, torch.stack(shares).square().sum(0))


@pytest.mark.parametrize("seed", range(40))
def test_windows_at_random(seed: int) -> None:
    """Strides, dilations and paddings beyond what networks have, of both sides of where grids change their form."""
    draw = random.Random(seed)
    while True:
        kernel, dilation, stride, padding, size = (
            [draw.randint(low, high) for _ in range(2)] for low, high in ((1, 4), (1, 8), (1, 9), (0, 14), (1, 9))
        )
        if all(size[i] + 2 * padding[i] > dilation[i] * (kernel[i] - 1) for i in range(2)):
            break
    groups, batch = draw.choice([1, 2]), draw.choice([1, 2, 5, 17])
    shape, window = (2 * groups, 3, *kernel), {"stride": stride, "padding": padding, "dilation": dilation}
    topology = Topology.random(shape, math.prod(shape) // 2)
    memory_format = draw.choice([torch.contiguous_format, torch.channels_last])
    x = torch.randn(batch, 3 * groups, *size, dtype=torch.double).contiguous(memory_format=memory_format)
    x.requires_grad_()
    values = torch.randn(topology.capacity, dtype=torch.double, requires_grad=True)
    weight = topology.dense(values.detach()).requires_grad_()
    want = torch.nn.functional.conv2d(x, weight, **window, groups=groups)
    delta = torch.randn_like(want)
    wanted = torch.autograd.grad(want, (x, weight), delta)
    got = ops.sparse_conv2d(x, values, topology.index, kernel_size=kernel, groups=groups, **window)
    found = torch.autograd.grad(got, (x, values), delta)
    gradient, _ = ops.conv2d_gradient_moment(delta, x.detach(), kernel_size=kernel, groups=groups, **window)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1], topology.gather(wanted[1]))
    torch.testing.assert_close(gradient, wanted[1])


@pytest.mark.parametrize("op", [ops.sparse_conv2d, ops.expanded_conv2d])
def test_strided_values_and_bias(op: Callable) -> None:
    """Values and a bias that are views with strides, also of one number."""
    topology = Topology.random((6, 4, 3, 3), 100)
    x = torch.randn(3, 4, 5, 6, dtype=torch.double)
    many, few = (torch.randn(n, 2, dtype=torch.double, requires_grad=True) for n in (100, 6))
    one = torch.randn(1, dtype=torch.double, requires_grad=True)
    for values, bias in ((many[:, 1], few[:, 0]), (one.expand(100), one.expand(6))):
        got = op(x, values, topology.index, bias, kernel_size=3)
        want = torch.nn.functional.conv2d(x, topology.dense(values), bias)
        delta = torch.randn_like(want)
        torch.testing.assert_close(got, want)
        for a, b in zip(
            torch.autograd.grad(got, (many, few, one), delta, allow_unused=True),
            torch.autograd.grad(want, (many, few, one), delta, allow_unused=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b)

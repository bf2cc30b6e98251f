"""FLOPs of operators and models against formulas by hand: 2 for each nonzero and sample, or position of a sample."""

from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import sparsekern as sk
from sparsekern import Topology, ops


def counted(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def both(product: Callable[[], Tensor]) -> tuple[int, int]:
    """Of the forward and of the backward pass."""
    with FlopCounterMode(display=False) as counter:
        output = product()
        forward = counter.get_total_flops()
        output.sum().backward()
    return forward, counter.get_total_flops() - forward


@pytest.mark.parametrize("leading", [(0,), (1,), (7,), (2, 3)])
@pytest.mark.parametrize("op", [ops.sparse_linear, ops.expanded_linear])
def test_linear(op: Callable, leading: tuple[int, ...]) -> None:
    topology = Topology.random((20, 30), 100, capacity=130)
    x, values, bias = torch.randn(*leading, 30), torch.zeros(130, requires_grad=True), torch.zeros(20)
    once = 2 * 100 * prod(leading)
    assert both(lambda: op(x, values, topology.index, bias)) == (once, once)
    x.requires_grad_()
    assert both(lambda: op(x, values, topology.index, bias)) == (once, 2 * once)
    assert both(lambda: op(x, values.detach(), topology.index)) == (once, once)


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("op", [ops.sparse_conv2d, ops.expanded_conv2d])
def test_convolution(op: Callable, batch: int) -> None:
    topology = Topology.random((6, 2, 3, 3), 50, capacity=60)
    x = torch.randn(batch, 4, 11, 12, requires_grad=True)
    values = torch.zeros(60, requires_grad=True)
    window: dict[str, Any] = {"kernel_size": 3, "stride": (2, 3), "padding": (1, 2), "dilation": (2, 1), "groups": 2}
    height, width = (11 + 2 - 4 - 1) // 2 + 1, (12 + 4 - 2 - 1) // 3 + 1
    once = 2 * 50 * batch * height * width
    assert both(lambda: op(x, values, topology.index, **window)) == (once, 2 * once)


@pytest.mark.parametrize("active", [True, False])
def test_masked(active: bool) -> None:
    """The straight-through gradient of a weight is dense."""
    bits = frozenset({"bitmask"})
    topology = Topology.random((20, 30), 100, views=bits)
    x, weight = torch.randn(7, 30, requires_grad=True), torch.zeros(20, 30, requires_grad=True)
    once, dense = 2 * 100 * 7, 2 * 20 * 30 * 7
    found = both(lambda: ops.masked_linear(x, weight, topology.index, active=active))
    assert found == (once, once + (once if active else dense))
    topology = Topology.random((6, 4, 3, 3), 50, views=bits)
    image, kernel = torch.randn(2, 4, 8, 8, requires_grad=True), torch.zeros(6, 4, 3, 3, requires_grad=True)
    once, dense = 2 * 50 * 2 * 36, 2 * 6 * 4 * 9 * 2 * 36
    found = both(lambda: ops.masked_conv2d(image, kernel, topology.index, active=active))
    assert found == (once, once + (once if active else dense))


def test_gradients_alone() -> None:
    delta, x, places = torch.randn(7, 20), torch.randn(7, 30), torch.arange(11)
    assert counted(lambda: ops.sampled_gradient(delta, x, places)) == 2 * 11 * 7
    assert counted(lambda: ops.gradient_moment(delta, x)) == 2 * 20 * 30 * (7 + 7)
    delta, x = torch.randn(2, 6, 8, 8), torch.randn(2, 4, 8, 8)
    window: dict[str, Any] = {"kernel_size": 3, "padding": 1}
    assert counted(lambda: ops.sampled_conv2d_gradient(delta, x, places, **window)) == 2 * 11 * 2 * 64
    assert counted(lambda: ops.conv2d_gradient_moment(delta, x, **window)) == 2 * 6 * 4 * 9 * (2 * 64 + 2)


def test_without_numbers() -> None:
    """Fake tensors do not say how many nonzeros there are: there is room for 130."""
    topology = Topology.random((20, 30), 100, capacity=130)
    index = topology.index
    with FakeTensorMode() as mode:
        index = [mode.from_tensor(tensor) for tensor in index]
        x, values = torch.zeros(7, 30), torch.zeros(130)
        assert counted(lambda: ops.sparse_linear(x, values, index)) == 2 * 130 * 7


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=2),
        nn.Flatten(),
        nn.Linear(72, 10),
    )


@pytest.mark.parametrize("backend", ["auto", "sparse", "dense"])
@pytest.mark.parametrize("kind", ["sparse", "masked", "active"])
def test_models(kind: str, backend: str) -> None:
    """Whatever kernel multiplies; the second convolution stays dense. The first needs no gradient of its input."""
    model = network()
    topologies = [Topology.random((8, 2, 3, 3), 40), Topology.random((10, 72), 90)]
    options: dict[str, Any] = {"backend": backend}
    if kind == "sparse":
        layers = [sk.SparseConv2d, sk.SparseLinear]
    else:
        layers = [sk.MaskedConv2d, sk.MaskedLinear]
        options["weight_gradient"] = "active" if kind == "active" else "dense"
    for name, layer, topology in zip((0, 5), layers, topologies, strict=True):
        model[name] = layer.from_topology(model[name], topology, **options)
    found = sk.flops(model, torch.randn(1, 2, 8, 8))
    first, middle, last = 2 * 40 * 64, 2 * 8 * 4 * 9 * 9, 2 * 90
    dense = [2 * 8 * 2 * 9 * 64, middle, 2 * 720]
    assert found.forward == first + middle + last
    assert found.dense_forward == sum(dense)
    assert found.dense_backward == 2 * sum(dense) - dense[0]
    weights = first + last if kind != "masked" else dense[0] + dense[2]
    assert found.backward == weights + last + 2 * middle
    assert sk.flops(model, torch.randn(5, 2, 8, 8)).forward == 5 * found.forward
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_frozen_and_reused_layers() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = sk.SparseLinear(6, 6, topology=Topology.random((6, 6), 10))
            self.layer.values.requires_grad_(False)

        def forward(self, *, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.layer(self.layer(x))}

    found = sk.flops(Twice(), x=torch.randn(3, 6))
    assert (found.forward, found.dense_forward) == (2 * 2 * 10 * 3, 2 * 2 * 36 * 3)
    assert (found.backward, found.dense_backward) == (2 * 10 * 3, 2 * 36 * 3)  # the second use has an input with one


def test_report() -> None:
    method = sk.methods.random(sparsity=0.9)
    model = sk.sparsify(network(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    assert optimizer.report().flops is None
    report = optimizer.report(torch.randn(1, 2, 8, 8))
    assert report.flops == sk.flops(model, torch.randn(1, 2, 8, 8))
    assert "FLOPs: forward" in str(report)
    assert report.flops.forward < 0.2 * report.flops.dense_forward

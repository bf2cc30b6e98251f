"""Masked layers whose operator masks the weight itself, as they are on a GPU; on the CPU its reference does."""

import copy
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from support.masked_twins import DENSE, KINDS, example, layer_of
from torch import Tensor, nn

import sparsekern as sk
from sparsekern import ops
from sparsekern.nn.layer import parameter_of

BITS = frozenset({"bitmask"})


def bits_layer(dense: nn.Module, mask: Tensor, **options: Any) -> Any:
    layer = layer_of(dense, mask, **options)
    layer.set_kernel("bits", "asked for")
    return layer


def masked(dense: Any, mask: Tensor) -> nn.Module:
    twin = copy.deepcopy(dense)
    twin.weight.data *= mask
    return twin


def run(module: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients of the input, the weight and the bias, if there is one."""
    x = x.detach().requires_grad_()
    output = module(x)
    delta = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    leaves = [x, parameter_of(module), *([] if module.bias is None else [module.bias])]
    return output.detach(), *torch.autograd.grad(output, leaves, delta)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("weight_gradient", ["dense", "active"])
@pytest.mark.parametrize("name", DENSE)
def test_computes_the_masked_layer(name: str, weight_gradient: str) -> None:
    dense, mask, x = example(name)
    layer = bits_layer(dense, mask, weight_gradient=weight_gradient)
    assert layer.kernel == "bits"
    output, grad_input, grad_weight, *grad_bias = run(layer, x)
    expected = run(masked(dense, mask), x)
    torch.testing.assert_close((output, grad_input, *grad_bias), (*expected[:2], *expected[3:]))
    torch.testing.assert_close(grad_weight, expected[2] * (mask if weight_gradient == "active" else 1))


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_memory_formats(memory_format: torch.memory_format) -> None:
    dense, mask, x = example("3x3")
    layer = bits_layer(dense, mask).to(memory_format=memory_format)
    x = x.contiguous(memory_format=memory_format)
    actual, expected = run(layer, x), run(masked(dense, mask), x)
    torch.testing.assert_close(actual, expected)
    assert all(t.is_contiguous(memory_format=memory_format) for t in actual[:3])


@pytest.mark.parametrize("name", KINDS)
def test_moment_is_recorded(name: str) -> None:
    dense, mask, x = example(name)
    layers = [make(dense, mask, weight_gradient="moment") for make in (layer_of, bits_layer)]
    for layer in layers:
        layer(x).square().sum().backward()
    torch.testing.assert_close(layers[1].master.grad, layers[0].master.grad)
    torch.testing.assert_close(layers[1].moment, layers[0].moment)
    assert layers[1].samples == len(x)


@pytest.mark.parametrize("weight_gradient", ["dense", "active"])
@pytest.mark.parametrize("name", KINDS)
def test_an_armed_layer_records(name: str, weight_gradient: str) -> None:
    dense, mask, x = example(name)
    layer = bits_layer(dense, mask, weight_gradient=weight_gradient)
    layer.probe = layer.new_probe()
    layer(x).square().sum().backward()
    gradient = layer.probe.dense_gradient() * (mask if weight_gradient == "active" else 1)
    torch.testing.assert_close(gradient, layer.master.grad)


@pytest.mark.parametrize("name", KINDS)
def test_compiles_to_one_graph(name: str) -> None:
    dense, mask, x = example(name)
    layer = bits_layer(dense, mask)
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for seed in range(3):
        mask = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.4
        layer.set_topology(sk.Topology.from_mask(mask, capacity=mask.numel()))
        layer.set_kernel("bits", "asked for")
        expected = run(masked(dense, mask), x)
        leaf = x.detach().requires_grad_()
        output = compiled(leaf)
        delta = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
        gradients = torch.autograd.grad(output, [leaf, layer.master, layer.bias], delta)
        torch.testing.assert_close((output.detach(), *gradients), expected)
    assert counter.frame_count == 1


def test_under_autocast() -> None:
    for name in KINDS:
        dense, mask, x = example(name, torch.float32)
        layer = bits_layer(dense, mask)
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(x)
        output.float().square().sum().backward()
        assert output.dtype == torch.bfloat16
        assert layer.master.grad.dtype == torch.float32


def test_refuses() -> None:
    topology = sk.Topology.random((5, 12), 9)
    bits, columns = topology.with_views(BITS).index, topology.index
    x, images, weight = torch.randn(3, 12), torch.randn(2, 3, 4, 4), torch.randn(5, 12)
    with pytest.raises(ValueError, match="hold the bitmask"):
        ops.masked_linear(x, weight, columns)
    with pytest.raises(ValueError, match=r"weight must have the shape \(5, 12\), got \(12, 5\)"):
        ops.masked_linear(x, weight.t(), bits)
    with pytest.raises(ValueError, match="weight must have the input's dtype"):
        ops.masked_linear(x, weight.double(), bits)
    with pytest.raises(ValueError, match="weight must be "):
        ops.masked_conv2d(images, weight, bits)
    with pytest.raises(ValueError, match="index describes 12 weights"):
        ops.masked_conv2d(images, weight.reshape(5, 2, 2, 3), bits)
    assert ops.masked_conv2d(images, weight.reshape(5, 3, 2, 2), bits, padding="same").shape == (2, 5, 4, 4)

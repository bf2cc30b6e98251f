"""MaskedLinear and MaskedConv2d: a dense master weight of which only the active entries are multiplied."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from support.masked_twins import DENSE, KINDS, example, layer_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import sparsekern as sk


def run(module: Callable, x: Tensor, delta: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Output, a gradient of it, and the input's gradient; those of parameters are left where they are."""
    x = x.detach().requires_grad_()
    output = module(x)
    delta = torch.randn_like(output) if delta is None else delta
    (grad_input,) = torch.autograd.grad(output, x, delta, retain_graph=True)
    output.backward(delta)
    return output.detach(), delta, grad_input


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("weight_gradient", ["dense", "active"])
@pytest.mark.parametrize("backend", ["auto", "sparse", "dense", "masked"])
@pytest.mark.parametrize("name", DENSE)
def test_computes_the_masked_layer(name: str, backend: str, weight_gradient: str) -> None:
    dense, mask, x = example(name)
    layer = layer_of(dense, mask, backend=backend, weight_gradient=weight_gradient)
    twin = copy.deepcopy(dense)
    twin.weight.data *= mask
    output, delta, grad_input = run(layer, x)
    expected, _, expected_grad = run(twin, x, delta)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(grad_input, expected_grad)
    torch.testing.assert_close(layer.master.grad, twin.weight.grad * (mask if weight_gradient == "active" else 1))
    assert layer.master.grad.is_contiguous()
    assert torch.equal(layer.master, dense.weight)
    if dense.bias is not None:
        torch.testing.assert_close(layer.bias.grad, twin.bias.grad)
    back = layer.to_dense()
    assert repr(back) == repr(dense)
    assert torch.equal(back.weight, twin.weight)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_channels_last(memory_format: torch.memory_format) -> None:
    dense, mask, x = example("3x3")
    layer = layer_of(dense, mask).to(memory_format=torch.channels_last)
    twin = copy.deepcopy(dense)
    twin.weight.data *= mask
    output, delta, grad_input = run(layer, x.contiguous(memory_format=memory_format))
    expected, _, expected_grad = run(twin, x, delta)
    assert output.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(grad_input, expected_grad)
    torch.testing.assert_close(layer.master.grad, twin.weight.grad)


@pytest.mark.parametrize("name", KINDS)
def test_gradcheck(name: str) -> None:
    dense, mask, x = example(name)
    for weight_gradient, pattern in (("active", mask), ("dense", torch.ones_like(mask))):
        layer = layer_of(dense, pattern, weight_gradient=weight_gradient, backend="sparse")
        keys = ["master", "bias"]

        def apply(x: Tensor, *parameters: Tensor, layer: nn.Module = layer, keys: list[str] = keys) -> Tensor:
            return torch.func.functional_call(layer, dict(zip(keys, parameters, strict=True)), (x,))

        leaves = [t.detach().requires_grad_() for t in (x, layer.master, layer.bias)]
        assert torch.autograd.gradcheck(apply, leaves, fast_mode=True)


@pytest.mark.parametrize("weight_gradient", ["dense", "active"])
@pytest.mark.parametrize("name", KINDS)
def test_no_second_derivative(name: str, weight_gradient: str) -> None:
    dense, mask, x = example(name)
    layer = layer_of(dense, mask, weight_gradient=weight_gradient)
    for only_weight in (False, True):
        layer.bias.requires_grad_(not only_weight)
        with pytest.raises(RuntimeError, match="second derivatives"):
            torch.autograd.grad(layer(x).square().sum(), layer.master, create_graph=True)


@pytest.mark.parametrize("name", KINDS)
def test_frozen_parts(name: str) -> None:
    """No gradient is computed for what needs none."""
    dense, mask, x = example(name)
    dense.weight.requires_grad_(False)
    layer = layer_of(dense, mask)
    assert not layer.master.requires_grad
    run(layer, x)
    assert layer.master.grad is None
    layer.bias.requires_grad_(False)
    assert not layer(x).requires_grad
    layer.master.requires_grad_(True)
    layer(x).sum().backward()
    assert layer.master.grad.abs().sum() > 0
    with torch.no_grad():
        assert not layer(x).requires_grad


@pytest.mark.parametrize("name", KINDS)
def test_changing_the_mask_moves_no_weight(name: str) -> None:
    dense, mask, x = example(name)
    layer = layer_of(dense, mask)
    weight, pointer = layer.master, layer.master.data_ptr()
    for seed in range(3):
        mask = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.2 * (seed + 1)
        layer.set_topology(sk.Topology.from_mask(mask))
        assert layer.master is weight
        assert weight.data_ptr() == pointer
        assert torch.equal(weight, dense.weight)
        assert torch.equal(layer.topology.mask(), mask)
        twin = copy.deepcopy(dense)
        twin.weight.data *= mask
        torch.testing.assert_close(layer(x), twin(x))
    with pytest.raises(ValueError, match="topology must have the weight's shape"):
        layer.set_topology(sk.Topology.random((20, 31), 5))


@pytest.mark.parametrize("name", KINDS)
def test_training_with_feedback_equals_the_masked_twin(name: str) -> None:
    """Dynamic pruning with feedback: the gradient at the masked weight moves the dense one, masks change."""
    dense, mask, x = example(name)
    layer, twin = layer_of(dense, mask, backend="sparse"), copy.deepcopy(dense)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.02, momentum=0.9, nesterov=True) for m in (layer, twin)]
    for step in range(20):
        if step % 5 == 0:
            mask = twin.weight.detach().abs() > twin.weight.detach().abs().quantile(0.3 + step / 40)
            layer.set_topology(sk.Topology.from_mask(mask))
        for m, optimizer in zip((layer, twin), optimizers, strict=True):
            weight = m.weight + (m.weight * mask - m.weight).detach() if m is twin else None
            output = m(x) if weight is None else torch.func.functional_call(m, {"weight": weight}, (x,))
            optimizer.zero_grad()
            output.square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(layer.master, twin.weight)
    torch.testing.assert_close(layer.bias, twin.bias)


class _Soft(sk.MaskedLinear):
    """Soft-thresholded weights (Kusupati et al., Soft Threshold Weight Reparameterization, ICML 2020)."""

    threshold: nn.Parameter

    def active_weight(self, weight: Tensor) -> Tensor:
        values = super().active_weight(weight)
        return values - values.sign() * self.threshold.sigmoid()


def test_what_is_multiplied_can_be_a_function_of_the_weights() -> None:
    dense, _, x = example("linear")
    threshold = torch.tensor(-2.0, dtype=torch.double)
    layer = _Soft.from_dense(dense, dense.weight.abs() > threshold.sigmoid(), weight_gradient="active")
    layer.threshold = nn.Parameter(threshold)
    weight, s = dense.weight.detach().requires_grad_(), threshold.clone().requires_grad_()
    soft = weight.sign() * torch.relu(weight.abs() - s.sigmoid())
    nn.functional.linear(x, soft, dense.bias).square().sum().backward()
    layer(x).square().sum().backward()
    torch.testing.assert_close(layer.master.grad, weight.grad)
    torch.testing.assert_close(layer.threshold.grad, s.grad)


class _Dense(TorchDispatchMode):
    """Counts the new tensors of a weight's size."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.made = weight, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for t in result if isinstance(result, tuple | list) else (result,):
            known = [a.untyped_storage()._cdata for a in args if isinstance(a, Tensor)]
            if isinstance(t, Tensor) and t.numel() >= self.weight.numel() and t.untyped_storage()._cdata not in known:
                self.made += 1
        return result


@pytest.mark.parametrize("weight_gradient", ["dense", "active"])
@pytest.mark.parametrize("name", KINDS)
def test_nothing_dense_but_the_weight_and_its_gradient(name: str, weight_gradient: str) -> None:
    options = {"sparsity": 0.9, "weight_gradient": weight_gradient, "backend": "sparse"}
    if name == "linear":
        layer, x = sk.MaskedLinear(300, 400, **options), torch.randn(7, 300)
    else:
        layer, x = sk.MaskedConv2d(60, 70, 3, **options), torch.randn(2, 60, 5, 5)
    size, saved = layer.master.numel(), []

    def pack(t: Tensor) -> Tensor:
        saved.append(t.numel())
        return t

    with _Dense(layer.master) as forward, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output = layer(x)
    assert forward.made == 0
    assert max(saved) < size / 2
    with _Dense(layer.master) as backward:
        output.sum().backward()
    assert backward.made == 1
    assert layer.master.grad.shape == layer.master.shape


@pytest.mark.parametrize("weight_gradient", ["dense", "active"])
@pytest.mark.parametrize("name", KINDS)
def test_compiles_to_one_graph(name: str, weight_gradient: str) -> None:
    dense, mask, x = example(name)
    # Another kernel would be another graph, and which one is taken differs between processors.
    layer = layer_of(dense, mask, weight_gradient=weight_gradient, backend="sparse")
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for seed in range(5):
        mask = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.2
        layer.set_topology(sk.Topology.from_mask(mask, capacity=mask.numel()))
        layer.zero_grad()
        expected, delta, expected_grad = run(layer, x)
        weight_grad = layer.master.grad.clone()
        layer.zero_grad()
        output, _, grad_input = run(compiled, x, delta)
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(grad_input, expected_grad)
        torch.testing.assert_close(layer.master.grad, weight_grad)
    assert counter.frame_count == 1


def test_autocast_and_narrow_dtypes() -> None:
    for name in KINDS:
        dense, mask, x = example(name, torch.float32)
        layer = layer_of(dense, mask)
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(x)
        assert output.dtype == torch.bfloat16
        output.float().square().sum().backward()
        coarse, layer.master.grad = layer.master.grad, None
        layer(x).square().sum().backward()
        assert coarse.dtype == torch.float32
        torch.testing.assert_close(coarse, layer.master.grad, rtol=0.05, atol=0.05 * float(coarse.abs().max()))
        assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", KINDS)
def test_an_armed_layer_records(name: str) -> None:
    dense, mask, x = example(name)
    layer = layer_of(dense, mask)
    layer.probe = layer.new_probe()
    layer(x).square().sum().backward()
    torch.testing.assert_close(layer.probe.dense_gradient(), layer.master.grad)
    assert copy.deepcopy(layer).probe is None

"""`torch.func` transforms layers with a pattern as it does the dense twin; what it cannot transform says so."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.masked_twins import KINDS, example, layer_of
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, vjp, vmap

import sparsekern as sk
from sparsekern.nn import sparse_twin
from sparsekern.nn.expanded import SparseConv3d

BACKENDS = ["sparse", "dense", "masked"]


def loss_of(module: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    return lambda parameters, sample: functional_call(module, parameters, (sample[None],)).square().sum()


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("weight_gradient", ["dense", "active"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_samples(name: str, backend: str, weight_gradient: str) -> None:
    dense, mask, x = example(name)
    layer = layer_of(dense, mask, backend=backend, weight_gradient=weight_gradient)
    twin, workload = layer.to_dense(), layer.workload
    found = vmap(grad(loss_of(layer)), (None, 0))(parameters_of(layer), x)
    expected = vmap(grad(loss_of(twin)), (None, 0))(parameters_of(twin), x)
    weight = expected["weight"] * mask if weight_gradient == "active" else expected["weight"]
    torch.testing.assert_close(found["master"], weight)
    torch.testing.assert_close(found["bias"], expected["bias"])
    assert layer.workload is workload  # one sample at a time is not what the layer is chosen for
    layer(x).square().sum().backward()
    torch.testing.assert_close(layer.master.grad, found["master"].sum(0))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_samples_at_nonzeros(name: str, backend: str) -> None:
    dense, mask, x = example(name)
    layer = sparse_twin(dense, sk.Topology.from_mask(mask), backend)
    twin = layer.to_dense()
    found = vmap(grad(loss_of(layer)), (None, 0))(parameters_of(layer), x)
    expected = vmap(grad(loss_of(twin)), (None, 0))(parameters_of(twin), x)
    for values, weight in zip(found["values"], expected["weight"], strict=True):
        torch.testing.assert_close(values, layer.topology.gather(weight))
    torch.testing.assert_close(found["bias"], expected["bias"])
    layer(x).square().sum().backward()
    torch.testing.assert_close(layer.values.grad, found["values"].sum(0))
    members = torch.stack([layer.values.detach() * scale for scale in (1.0, 0.5, -2.0)])
    outputs = vmap(lambda values: functional_call(layer, {"values": values}, (x,)))(members)
    for member, output in zip(members, outputs, strict=True):
        torch.testing.assert_close(output, functional_call(layer, {"values": member}, (x,)))


@pytest.mark.parametrize("storage", ["nonzeros", "master"])
@pytest.mark.parametrize("name", KINDS)
def test_second_derivatives(name: str, storage: str) -> None:
    dense, mask, x = example(name)
    sparse = sparse_twin(dense, sk.Topology.from_mask(mask))
    layer, sample = sparse if storage == "nonzeros" else layer_of(dense, mask, backend="sparse"), x[0]
    twin = layer.to_dense()

    def curved(module: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda sample: module(sample[None]).tanh().sum()

    torch.testing.assert_close(hessian(curved(layer))(sample), hessian(curved(twin))(sample))
    torch.testing.assert_close(jacrev(grad(curved(layer)))(sample), jacrev(grad(curved(twin)))(sample))


@pytest.mark.parametrize("name", KINDS)
def test_a_transform_of_the_weight_and_an_ensemble(name: str) -> None:
    dense, mask, x = example(name)
    layer = layer_of(dense, mask, weight_gradient="active")
    layer.transform = nn.Tanh()
    twin = layer.to_dense()
    torch.testing.assert_close(vjp(layer, x)[1](torch.ones_like(layer(x))), vjp(twin, x)[1](torch.ones_like(twin(x))))
    members = torch.stack([layer.master.detach() * scale for scale in (1.0, 0.5, -2.0)])
    outputs = vmap(lambda master: functional_call(layer, {"master": master}, (x,)))(members)
    for member, output in zip(members, outputs, strict=True):
        torch.testing.assert_close(output, functional_call(layer, {"master": member}, (x,)))


@pytest.mark.parametrize("name", KINDS)
def test_in_one_compiled_graph(name: str) -> None:
    dense, mask, x = example(name)
    layer = layer_of(dense, mask, backend="sparse")
    gradient = grad(lambda x: layer(x).square().sum())
    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), gradient(x))


def test_recurrent_weights_and_expanded_ones() -> None:
    lstm = nn.LSTM(5, 4, batch_first=True).double()
    sparse = sk.sparsify(nn.Sequential(lstm), 0.5, include=["0"])
    x = torch.randn(2, 3, 5, dtype=torch.double)
    pairs: list[tuple[Any, Tensor]] = [(lambda x: sparse(x)[0].sum(), x)]
    conv = SparseConv3d(2, 3, 2, sparsity=0.5, dtype=torch.double)
    images = torch.randn(2, 2, 3, 3, 3, dtype=torch.double)
    pairs.append((lambda x: conv(x).square().sum(), images))
    for function, given in pairs:
        leaf = given.clone().requires_grad_()
        function(leaf).backward()
        torch.testing.assert_close(grad(function)(given), leaf.grad)


@pytest.mark.parametrize("name", KINDS)
def test_what_records_a_backward_pass_refuses(name: str) -> None:
    dense, mask, x = example(name)
    layer = layer_of(dense, mask, weight_gradient="moment")
    with pytest.raises(RuntimeError, match=r"torch\.func unless they record"):
        grad(lambda x: layer(x).sum())(x)
    layer = layer_of(dense, mask)
    layer.probe = layer.new_probe()
    with pytest.raises(RuntimeError, match=r"torch\.func.*unless they record"):
        vmap(lambda x: layer(x[None]))(x)

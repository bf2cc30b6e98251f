"""Derivatives in forward mode: those of the dense twin, or an error; never zeros in silence."""

from typing import Any

import pytest
import torch
from support.masked_twins import KINDS, example
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jvp, linearize, vjp

import sparsekern as sk
from sparsekern.nn import masked_twin, sparse_twin

BACKENDS = ["sparse", "dense", "masked"]
STORAGES = ["nonzeros", "dense", "active", "moment", "transform", "bits"]


def layer_of(storage: str, dense: nn.Module, mask: Tensor, backend: str) -> Any:
    topology = sk.Topology.from_mask(mask)
    if storage == "nonzeros":
        return sparse_twin(dense, topology, backend)
    gradient: Any = {"transform": "active", "bits": "dense"}.get(storage, storage)
    layer: Any = masked_twin(dense, topology, backend, weight_gradient=gradient)
    if storage == "transform":
        layer.transform = nn.Tanh()
    if storage == "bits":
        layer.set_kernel("bits", "a test")
    return layer


def tangent(layer: nn.Module, x: Tensor, dx: Tensor) -> Any:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(layer(forward_ad.make_dual(x, dx))).tangent


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", KINDS)
def test_along_the_input(name: str, storage: str, backend: str, frozen: bool) -> None:
    dense, mask, x = example(name)
    layer, dx = layer_of(storage, dense, mask, backend).requires_grad_(not frozen), torch.randn_like(x)
    if storage == "moment" and not frozen:  # whose backward pass records what forward mode does not know
        with pytest.raises(RuntimeError, match=r"torch\.func.*unless they record"):
            jvp(layer, (x,), (dx,))
        with pytest.raises(RuntimeError, match="jvp"):
            tangent(layer, x, dx)
        return
    pair: Any = jvp(layer.to_dense(), (x,), (dx,))
    expected = pair[1]
    assert expected.any()
    torch.testing.assert_close(jvp(layer, (x,), (dx,)), pair)
    torch.testing.assert_close(tangent(layer, x, dx), expected)
    torch.testing.assert_close(linearize(layer, x)[1](dx), expected)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", KINDS)
def test_jacobians(name: str, storage: str) -> None:
    dense, mask, x = example(name)
    layer = layer_of(storage, dense, mask, "sparse").requires_grad_(False)
    torch.testing.assert_close(jacfwd(layer)(x), jacfwd(layer.to_dense())(x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("storage", ["nonzeros", "dense", "active"])
@pytest.mark.parametrize("name", KINDS)
def test_along_the_weights(name: str, storage: str, backend: str) -> None:
    """Of straight-through gradients the tangent, too, is that of a change at every entry."""
    dense, mask, x = example(name)
    layer = layer_of(storage, dense, mask, backend)
    change, shift, twin = torch.randn_like(layer.stored), torch.randn_like(layer.bias), layer.to_dense()

    def output(stored: Tensor, bias: Tensor) -> Tensor:
        return functional_call(layer, {layer.WEIGHT: stored, "bias": bias}, (x,))

    def expected(weight: Tensor, bias: Tensor) -> Tensor:
        return functional_call(twin, {"weight": weight, "bias": bias}, (x,))

    found = jvp(output, (layer.stored, layer.bias), (change, shift))
    direction = {"nonzeros": layer.topology.dense, "dense": lambda d: d, "active": lambda d: d * mask}[storage](change)
    torch.testing.assert_close(found, jvp(expected, (twin.weight, layer.bias), (direction, shift)))


@pytest.mark.parametrize("storage", ["nonzeros", "dense", "active"])
@pytest.mark.parametrize("name", KINDS)
def test_backward_through_a_level_of_forward_mode(name: str, storage: str) -> None:
    dense, mask, x = example(name)
    layer, dx = layer_of(storage, dense, mask, "sparse"), torch.randn_like(x)
    layer(x).square().sum().backward()
    expected, layer.stored.grad = layer.stored.grad, None
    with forward_ad.dual_level():
        forward_ad.unpack_dual(layer(forward_ad.make_dual(x, dx))).primal.square().sum().backward()
    torch.testing.assert_close(layer.stored.grad, expected)


def test_an_armed_layer_refuses() -> None:
    dense, mask, x = example("linear")
    for storage in ("nonzeros", "dense"):
        layer = layer_of(storage, dense, mask, "sparse")
        layer.probe = layer.new_probe()
        with pytest.raises(RuntimeError, match=r"torch\.func.*unless they record"):
            jvp(layer, (x,), (torch.randn_like(x),))


def test_what_records_moments_is_refused_in_plain_words() -> None:
    dense, mask, x = example("linear")
    for backend in ("sparse", "dense"):
        layer = layer_of("moment", dense, mask, backend)
        for transform in (grad, vjp_of):
            with pytest.raises(RuntimeError, match=r"torch\.func unless they record second moments"):
                transform(lambda x, layer=layer: layer(x).square().sum())(x)


def vjp_of(function: Any) -> Any:
    return lambda x: vjp(function, x)[1](torch.ones((), dtype=x.dtype))

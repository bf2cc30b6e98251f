"""Derivatives in forward mode: those of the dense twin, or an error; never zeros in silence."""

from typing import Any

import pytest
import torch
from masked_twins import KINDS, example
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, jacfwd, jvp

import sparsekern as sk
from sparsekern.nn import masked_twin, sparse_twin

BACKENDS = ["sparse", "dense", "masked"]
STORAGES = ["nonzeros", "dense", "active", "moment"]


def layer_of(storage: str, dense: nn.Module, mask: Tensor, backend: str) -> Any:
    topology = sk.Topology.from_mask(mask)
    if storage == "nonzeros":
        return sparse_twin(dense, topology, backend)
    return masked_twin(dense, topology, backend, weight_gradient=storage)  # type: ignore[arg-type]


def tangent(layer: nn.Module, x: Tensor, dx: Tensor) -> Tensor | None:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(layer(forward_ad.make_dual(x, dx))).tangent


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", KINDS)
def test_along_the_input(name: str, backend: str, frozen: bool) -> None:
    dense, mask, x = example(name)
    layer, dx = layer_of("nonzeros", dense, mask, backend).requires_grad_(not frozen), torch.randn_like(x)
    output, expected = jvp(layer.to_dense(), (x,), (dx,))[:2]
    assert expected.any()
    if backend == "masked":
        with pytest.raises(RuntimeError, match="functorch"):
            jvp(layer, (x,), (dx,))
        return
    torch.testing.assert_close(jvp(layer, (x,), (dx,)), (output, expected))
    torch.testing.assert_close(tangent(layer, x, dx), expected)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weight_gradient", ["dense", "active", "moment"])
@pytest.mark.parametrize("name", KINDS)
def test_masked_layers_refuse(name: str, weight_gradient: str, backend: str, frozen: bool) -> None:
    dense, mask, x = example(name)
    layer = layer_of(weight_gradient, dense, mask, backend).requires_grad_(not frozen)
    with pytest.raises(RuntimeError, match="functorch"):
        jvp(layer, (x,), (torch.randn_like(x),))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", KINDS)
def test_what_maps_over_tangents_refuses(name: str, storage: str) -> None:
    dense, mask, x = example(name)
    layer = layer_of(storage, dense, mask, "sparse")
    with pytest.raises(RuntimeError):
        jacfwd(layer)(x)


@pytest.mark.parametrize("backend", ["sparse", "dense"])
@pytest.mark.parametrize("name", KINDS)
def test_along_the_values(name: str, backend: str) -> None:
    dense, mask, x = example(name)
    layer = layer_of("nonzeros", dense, mask, backend)
    change, shift, twin = torch.randn_like(layer.values), torch.randn_like(layer.bias), layer.to_dense()

    def output(values: Tensor, bias: Tensor) -> Tensor:
        return functional_call(layer, {"values": values, "bias": bias}, (x,))

    def expected(weight: Tensor, bias: Tensor) -> Tensor:
        return functional_call(twin, {"weight": weight, "bias": bias}, (x,))

    found = jvp(output, (layer.values, layer.bias), (change, shift))
    direction = (layer.topology.dense(change), shift)
    torch.testing.assert_close(found, jvp(expected, (twin.weight, layer.bias), direction))

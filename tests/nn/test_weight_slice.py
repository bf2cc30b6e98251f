"""Slices of `layer.weight` and of its gradient: views that reach the layer when they are changed in place."""

import copy
from typing import Any

import pytest
import torch
from support.weighted_layers import LAYERS, make
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.nn.embedding import SparseEmbedding


@pytest.fixture(params=LAYERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_parts_compute_as_any_tensor(name: str) -> None:
    layer, _ = make(name)
    twin = layer.to_dense().weight
    for read in (lambda w: w[1], lambda w: w.flatten(1).t(), lambda w: w.view(-1)[3:], lambda w: torch.stack([*w])):
        (expected,) = torch.autograd.grad(read(twin).square().sum(), twin)
        layer.stored.grad = None
        part = read(layer.weight)
        part.square().sum().backward()
        torch.testing.assert_close(layer.weight.grad * layer.topology.mask(), expected * layer.topology.mask())
        assert torch.equal(part, read(twin))
        assert type(part + 1) is type(copy.deepcopy(part.detach())) is Tensor
        assert part.detach().numpy().sum() == pytest.approx(part.sum().item())


def test_a_part_that_is_out_of_date_is_not_written(name: str) -> None:
    layer, _ = make(name)
    part = layer.weight.data[0]
    with torch.no_grad():
        layer.stored.mul_(2)
    before = layer.stored.detach().clone()
    with pytest.raises(RuntimeError, match=r"has changed since the part was read"):
        part.zero_()
    assert torch.equal(layer.stored, before)


def test_an_array_of_it_cannot_be_written(name: str) -> None:
    layer, _ = make(name)
    for array in (layer.weight.detach().numpy(), layer.weight.data[0].numpy()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
        assert array.copy().flags.writeable


def test_parts_of_packed_projections_and_of_padding() -> None:
    attention: Any = sk.sparsify(nn.MultiheadAttention(8, 2), 0.5)
    x = torch.randn(3, 4, 8)
    attention(x, x, x)[0].square().sum().backward()
    attention.in_proj_weight.grad[:8].zero_()
    assert not attention.q_proj.values.grad.any()
    assert attention.k_proj.values.grad.any()
    attention.in_proj_bias.grad.fill_(2)
    nn.init.constant_(attention.in_proj_bias, 3.0)
    attention.in_proj_weight.requires_grad_(False)
    attention.in_proj_weight.grad = None
    for layer in (attention.q_proj, attention.k_proj, attention.v_proj):
        assert not layer.values.requires_grad
        assert layer.values.grad is None
        assert torch.equal(layer.bias, torch.full((8,), 3.0))
        assert torch.equal(layer.bias.grad, torch.full((8,), 2.0))
    attention.in_proj_weight.data[8:16].zero_()
    assert not attention.k_proj.weight.any()
    assert attention.q_proj.weight.any()
    embedding: Any = SparseEmbedding(6, 4, padding_idx=2, sparsity=0.25)
    nn.init.normal_(embedding.weight)
    assert embedding.weight[2].any()
    embedding.weight.data[embedding.padding_idx].zero_()
    assert not embedding.weight[2].any()
    assert embedding.weight[1].any()


def test_changes_of_the_gradient_in_place_reach_it(name: str) -> None:
    layer, x = make(name)
    layer(x).square().sum().backward()
    twin, mask = layer.to_dense(), layer.topology.mask()
    twin.weight.grad = layer.dense_gradient().clone()
    for weight in (layer.weight, twin.weight):
        weight.grad.mul_(2)
        weight.grad[1].zero_()
        weight.grad.data.clamp_(-1.0, 1.0)
        weight.grad.view(-1)[::3] += 1
        weight.grad *= 0.5
    assert torch.equal(layer.weight.grad * mask, twin.weight.grad * mask)
    found = layer.weight.grad
    layer.stored.grad = None
    if "masked" not in name:
        with pytest.raises(RuntimeError, match="has changed since"):
            found.zero_()
    with pytest.raises(RuntimeError, match=r"belongs to layer\.stored"):
        layer.weight.grad = torch.zeros(layer.weight_shape)

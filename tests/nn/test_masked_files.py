"""Masked layers: constructors, files, copies, conversion and reports."""

import copy
import pickle
from math import prod
from typing import Any

import pytest
import torch
from support.masked_twins import DENSE, KINDS, example, layer_of
from torch import nn

import sparsekern as sk
from sparsekern.nn import MaskedLayer, prunable_layers


@pytest.mark.parametrize("name", KINDS)
def test_state_dict_loads_into_any_pattern(name: str) -> None:
    dense, mask, x = example(name)
    source = layer_of(dense, mask)
    state, nnz = source.state_dict(), int(mask.sum())
    assert list(state) == ["master", "bias", "row_ptr", "col"]
    assert state["col"].shape == (nnz,)
    for other in (torch.rand(mask.shape) < 0.9, torch.zeros_like(mask)):
        target = layer_of(DENSE[name][0](dtype=torch.double), other)
        weight = target.master
        assert target.load_state_dict(copy.deepcopy(state)).missing_keys == []
        assert target.master is weight
        assert target.topology.same_pattern(source.topology)
        assert torch.equal(target.master, source.master)
        assert torch.equal(target(x), source(x))
        assert target.topology.capacity == max(nnz, int(other.sum()))
        target.set_topology(sk.Topology.from_mask(other))
        assert torch.equal(source.topology.mask(), mask)
        old = {"weight" if key == "master" else key: tensor for key, tensor in state.items()}  # of version 0.1
        assert target.load_state_dict(old).missing_keys == []
        assert torch.equal(target(x), source(x))
    target = layer_of(DENSE[name][0](dtype=torch.double), mask)
    assert target.load_state_dict(dense.state_dict(), strict=False).missing_keys == ["row_ptr", "col"]
    assert torch.equal(target.master, dense.weight)
    with pytest.raises(RuntimeError, match=r"Missing key.*row_ptr.*col"):
        target.load_state_dict(dense.state_dict())
    with pytest.raises(RuntimeError, match="expected a weight of shape"):
        target.load_state_dict({**state, "master": state["master"][:3]})
    with pytest.raises(RuntimeError, match="must ascend"):
        target.load_state_dict({**state, "col": state["col"].flip(0)})
    with pytest.raises(RuntimeError, match="rows that end with"):
        target.load_state_dict({**state, "col": state["col"][1:]})


@pytest.mark.parametrize("name", KINDS)
def test_copies_and_pickles(name: str) -> None:
    dense, mask, x = example(name)
    layer = layer_of(dense, mask, weight_gradient="active").eval()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        assert (twin.weight_gradient, twin.training) == ("active", False)
        twin.set_topology(sk.Topology.from_mask(~mask))
        assert torch.equal(layer.topology.mask(), mask)


def test_the_constructors_are_those_of_the_dense_layers() -> None:
    linear = sk.MaskedLinear(500, 40, sparsity=0.9, generator=torch.Generator().manual_seed(1))
    assert {name: tuple(p.shape) for name, p in linear.named_parameters()} == {"master": (40, 500), "bias": (40,)}
    assert linear.topology.nnz == 2000
    conv = sk.MaskedConv2d(6, 4, 3, 2, 1, 1, 2, False, "reflect", None, torch.double, sparsity=0.5)
    assert {name: tuple(p.shape) for name, p in conv.named_parameters()} == {"master": (4, 3, 3, 3)}
    assert "nnz=54, sparsity=0.5000" in repr(conv)
    assert "weight_gradient=dense" in repr(conv)
    for weight in (linear.master.detach(), sk.MaskedConv2d(50, 40, 3, sparsity=0.5).master.detach()):
        limit = prod(weight.shape[1:]) ** -0.5
        assert abs(float(weight.std()) / limit * 3**0.5 - 1) < 0.03
        assert limit * 0.99 < float(weight.abs().max()) <= limit
    again = sk.MaskedLinear(500, 40, sparsity=0.9, generator=torch.Generator().manual_seed(1))
    assert all(
        torch.equal(a, b) for a, b in zip(linear.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_constructor_errors() -> None:
    pattern = sk.Topology.random((20, 30), 5)
    for arguments, message in (
        ({}, "exactly one"),
        ({"sparsity": 0.5, "topology": pattern}, "exactly one"),
        ({"topology": sk.Topology.random((30, 20), 5)}, r"weight's shape \(20, 30\), got \(30, 20\)"),
        ({"sparsity": 0.5, "backend": "quick"}, "backend must be one of"),
        (
            {"sparsity": 0.5, "weight_gradient": "some"},
            "weight_gradient must be one of dense, active, moment, got 'some'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            sk.MaskedLinear(30, 20, **arguments)
    with pytest.raises(TypeError, match="weight_gradient"):
        sk.SparseLinear(30, 20, sparsity=0.5, weight_gradient="dense")
    dense, mask, _ = example("3x3")
    with pytest.raises(ValueError, match="mask must have shape"):
        sk.MaskedConv2d.from_dense(dense, mask[:3])
    with pytest.raises(ValueError, match=r"expected a torch\.nn\.Linear, got Conv2d"):
        sk.MaskedLinear.from_dense(dense, mask)
    with pytest.raises(ValueError, match=r"20 rows of 30 entries, got shape \(30, 20\)"):
        sk.ops.active_values(torch.randn(30, 20), pattern.index)


def test_in_models() -> None:
    """Conversion and reports know masked layers."""
    linear, mask, _ = example("linear", torch.float32)
    model: Any = nn.Sequential(nn.Linear(8, 30), nn.ReLU(), sk.MaskedLinear.from_dense(linear, mask))
    layer, x, nnz = model[2], torch.randn(4, 8), int(mask.sum())
    assert list(prunable_layers(model)) == ["0", "2"]
    row = sk.memory_report(model).rows[0]
    assert (row["name"], row["values"], row["gradients"], row["slack"]) == ("2", 4 * 620, 4 * 620, 0)
    assert row["indices"] == sum(t.nbytes for t in layer.index)
    assert row["scratch"] == 4 * nnz + (4 * 600 if layer.kernel == "dense" else 0)
    assert row["dense_values"] == row["values"]
    expected, dense = model(x), sk.densify(copy.deepcopy(model))
    assert not any(isinstance(m, MaskedLayer) for m in dense.modules())
    torch.testing.assert_close(dense(x), expected)


def test_between_masked_and_sparse() -> None:
    linear, mask, _ = example("linear")
    masked = sk.MaskedLinear.from_dense(linear, mask)
    sparse = sk.SparseLinear.from_topology(masked, masked.topology)
    assert torch.equal(sparse.values, linear.weight[mask])
    other = sk.SparseLinear.from_topology(masked, sk.Topology.from_mask(torch.ones_like(mask)))
    assert torch.equal(other.to_dense().weight, linear.weight * mask)
    back = sk.MaskedLinear.from_topology(sparse, sparse.topology)
    assert torch.equal(back.weight, linear.weight * mask)
    again = sk.MaskedLinear.from_topology(masked, sk.Topology.from_mask(~mask), weight_gradient="active")
    assert torch.equal(again.master, linear.weight)
    assert again.weight_gradient == "active"
    converted: Any = sk.sparsify(nn.Sequential(masked), 1 - int(mask.sum()) / 600)
    assert type(converted[0]) is sk.SparseLinear
    assert converted[0].topology.same_pattern(masked.topology)
    assert torch.equal(converted[0].values, sparse.values)


@pytest.mark.parametrize("name", KINDS)
def test_a_sparse_layer_takes_the_state_of_a_masked_or_dense_one(name: str) -> None:
    """As where the best checkpoint is from before the layers held their nonzeros only."""
    dense, mask, x = example(name)
    state = layer_of(dense, mask).state_dict()
    twin: Any = copy.deepcopy(dense)
    twin.weight.data *= mask
    for other in (torch.rand(mask.shape) < 0.9, torch.zeros_like(mask)):
        kind = sk.SparseLinear if isinstance(dense, nn.Linear) else sk.SparseConv2d
        target: Any = kind.from_dense(dense, other)
        values = target.values
        assert target.load_state_dict(copy.deepcopy(state)) == ([], [])
        assert target.values is values
        torch.testing.assert_close(target(x), twin(x))
        assert torch.equal(target.topology.mask(), mask)
    for wrong, message in (
        ({"master": state["master"][:3]}, "expected a tensor of shape"),
        ({"col": state["col"].flip(0)}, "must ascend"),
        ({"col": state["col"].double()}, "col must be a 1-D"),
        ({"row_ptr": state["row_ptr"][:-1]}, "row_ptr must have"),
        ({"transform.threshold": torch.zeros(())}, "multiplies a function of its weight"),
    ):
        with pytest.raises(RuntimeError, match=message):
            target.load_state_dict({**state, **wrong})
    torch.testing.assert_close(target(x), twin(x))
    whole = {**dense.state_dict(), "weight": 2 * dense.weight.detach()}
    assert target.load_state_dict(whole, strict=False) == (["row_ptr", "col"], [])
    twin.weight.data *= 2
    torch.testing.assert_close(target(x), twin(x))
    with pytest.raises(RuntimeError, match=r"Missing key.*row_ptr.*col"):
        target.load_state_dict(whole)
    with pytest.raises(RuntimeError, match="expected a tensor of shape"):
        target.load_state_dict({**whole, "weight": whole["weight"][:3]}, strict=False)

"""SparseLinear, conversion and the memory report behave as users of nn.Linear expect."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import sparsekern as sk


def dense_and_sparse(bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, torch.Tensor]:
    linear = nn.Linear(30, 20, bias=bias, dtype=dtype)
    return linear, torch.rand(20, 30) < 0.3


@pytest.mark.parametrize("backend", ["auto", "sparse", "dense", "masked"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(30,), (5, 30), (2, 3, 30), (0, 30)])
def test_from_dense_computes_the_masked_layer(backend: str, bias: bool, shape: tuple[int, ...]) -> None:
    linear, mask = dense_and_sparse(bias, torch.float64)
    layer = sk.SparseLinear.from_dense(linear, mask, backend=backend)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    weight = (linear.weight.detach() * mask).requires_grad_()
    layer(x).square().sum().backward()
    nn.functional.linear(twin, weight, linear.bias).square().sum().backward()
    torch.testing.assert_close(layer(x), nn.functional.linear(twin, weight, linear.bias))
    torch.testing.assert_close(x.grad, twin.grad)
    torch.testing.assert_close(layer.values.grad, weight.grad[mask])
    if bias:
        torch.testing.assert_close(layer.bias.grad, linear.bias.grad)
    else:
        assert layer.bias is None


def test_values_is_the_only_weight_parameter() -> None:
    layer = sk.SparseLinear(30, 20, sparsity=0.9)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {"values": (60,), "bias": (20,)}
    assert "nnz=60, sparsity=0.9000" in repr(layer)


def test_new_weights_have_variance_one_over_fan_in() -> None:
    layer = sk.SparseLinear(400, 300, sparsity=0.5)
    fan_in = layer.row_ptr.diff().repeat_interleave(layer.row_ptr.diff())
    scaled = layer.values.detach() * fan_in.sqrt()
    assert abs(float(scaled.var()) - 1) < 0.02
    assert float(scaled.abs().max()) <= 3**0.5 + 1e-6


def test_empty_rows_give_the_bias() -> None:
    layer = sk.SparseLinear(6, 4, topology=sk.Topology.from_mask(torch.zeros(4, 6, dtype=torch.bool)))
    torch.testing.assert_close(layer(torch.randn(3, 6)), layer.bias.expand(3, 4))


def test_generator_decides_pattern_and_weights() -> None:
    first, second, third = (
        sk.SparseLinear(30, 20, sparsity=0.8, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not first.topology.same_pattern(third.topology)


def test_state_dict_loads_across_nnz_and_capacity() -> None:
    source = sk.SparseLinear(30, 20, sparsity=0.5)
    x = torch.randn(4, 30)
    state = source.state_dict()
    assert list(state) == ["values", "bias", "row_ptr", "col"]
    roomy = sk.SparseLinear(30, 20, topology=sk.Topology.random((20, 30), 10, capacity=500))
    for target in (sk.SparseLinear(30, 20, sparsity=0.9), sk.SparseLinear(30, 20, sparsity=0.1), roomy):
        parameter, optimizer = target.values, torch.optim.SGD(target.parameters(), lr=0.1)
        assert target.load_state_dict(state).missing_keys == []
        torch.testing.assert_close(target(x), source(x))
        assert target.values is parameter
        before = target.values.detach().clone()
        target(x).sum().backward()
        optimizer.step()
        assert not torch.equal(target.values, before)
    torch.testing.assert_close(source.state_dict()["values"], state["values"])


def test_loading_does_not_tie_two_models() -> None:
    source, target = sk.SparseLinear(30, 20, sparsity=0.5), sk.SparseLinear(30, 20, sparsity=0.5)
    target.load_state_dict(source.state_dict())
    with torch.no_grad():
        target.values.zero_()
    assert bool(source.values.any())


def test_bad_state_dicts_are_refused() -> None:
    layer, x = sk.SparseLinear(30, 20, sparsity=0.5), torch.randn(2, 30)
    expected = layer(x)
    with pytest.raises(RuntimeError, match=r"Missing key.*row_ptr"):
        layer.load_state_dict({"values": torch.zeros(3), "bias": layer.bias})
    backwards, outside, ragged = ({k: v.clone() for k, v in layer.state_dict().items()} for _ in range(3))
    backwards["col"] = backwards["col"].flip(0)
    outside["col"][0] = -1
    ragged["row_ptr"][1] = 10**6
    messages = {"col must ascend": backwards, r"col must lie in \[0, 30\)": outside, "row_ptr must": ragged}
    for message, broken in messages.items():
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict(broken)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*weight"):
        layer.load_state_dict({**layer.state_dict(), "weight": torch.zeros(1)})
    others = {
        "expected 20 rows": sk.SparseLinear(30, 21, sparsity=0.5),
        "col must lie in": sk.SparseLinear(99, 20, sparsity=0.1),
    }
    for message, other in others.items():
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer(x), expected)


def test_copies_pickles_and_files() -> None:
    layer, x = sk.SparseLinear(30, 20, sparsity=0.5), torch.randn(2, 30)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = sk.SparseLinear(30, 20, sparsity=0.5)
    other.load_state_dict(torch.load(file, weights_only=True))
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
        torch.testing.assert_close(copied(x), layer(x))
        with torch.no_grad():
            copied.values.zero_()
    assert bool(layer.values.any())


def test_dtype_moves_values_and_leaves_the_index() -> None:
    layer = sk.SparseLinear(30, 20, sparsity=0.5).double()
    assert layer.values.dtype == torch.float64
    assert layer.col.dtype == layer.row_ptr.dtype == torch.int32
    layer(torch.randn(2, 30, dtype=torch.float64))
    assert layer.bfloat16()(torch.randn(2, 30, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_and_inference_mode(dtype: torch.dtype) -> None:
    layer, x = sk.SparseLinear(30, 20, sparsity=0.5), torch.randn(2, 30)
    with torch.autocast("cpu", dtype):
        output = layer(x)
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), layer(x), atol=0.05, rtol=0.05)
    output.float().sum().backward()
    assert layer.values.grad.dtype == torch.float32
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), layer(x))


def test_frozen_values_and_vmap_free_functional_call() -> None:
    layer, x = sk.SparseLinear(30, 20, sparsity=0.5), torch.randn(2, 30, requires_grad=True)
    layer.values.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.values.grad is None
    assert x.grad is not None
    doubled = {"values": 2 * layer.values, "bias": layer.bias}
    torch.testing.assert_close(
        torch.func.functional_call(layer, doubled, (x,)) - layer.bias, 2 * (layer(x) - layer.bias)
    )


@pytest.mark.parametrize("backend", ["sparse", "dense"])
def test_second_derivatives_are_refused(backend: str) -> None:
    layer, x = sk.SparseLinear(30, 20, sparsity=0.5, backend=backend), torch.randn(2, 30, requires_grad=True)
    for loss in (layer(x).square().sum(), layer(x).sum()):
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(loss, x, create_graph=True)


def test_to_dense_and_densify() -> None:
    model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5))
    sk.sparsify(model, 0.8)
    x = torch.randn(3, 30)
    expected = model(x)
    nnz = [layer.topology.nnz for layer in model if isinstance(layer, sk.SparseLinear)]
    dense = sk.densify(model)
    assert dense is model
    assert [type(m) for m in model] == [nn.Linear, nn.ReLU, nn.Linear]
    torch.testing.assert_close(model(x), expected)
    assert [int(m.weight.count_nonzero()) for m in model if isinstance(m, nn.Linear)] == nnz
    assert type(sk.densify(sk.SparseLinear(3, 2, sparsity=0.5))) is nn.Linear


def test_memory_report_counts_the_tensors_that_exist() -> None:
    model: Any = sk.sparsify(nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10)), 0.9, backend="sparse")
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 100)).sum().backward()
    optimizer.step()
    report = sk.memory_report(model, optimizer)
    parameters = sum(p.nbytes for p in model.parameters())
    state = sum(t.nbytes for s in optimizer.state.values() for t in s.values() if t.dim())
    total = report.total
    assert total["values"] == total["gradients"] == parameters
    assert total["optimizer"] == state == 2 * parameters
    assert total["indices"] == sum(t.nbytes for layer in (model[0], model[2]) for t in layer.index)
    assert total["slack"] == total["scratch"] == 0
    assert total["dense_values"] == 4 * (100 * 50 + 50 * 10 + 60)
    assert total["dense_optimizer"] == 2 * total["dense_values"]
    assert "total" in str(report)


def test_memory_report_shows_slack() -> None:
    layer = sk.SparseLinear(30, 20, topology=sk.Topology.random((20, 30), 100, capacity=150), backend="sparse")
    layer.set_kernel("csr", "")
    total = sk.memory_report(layer).total
    assert total["slack"] == 50 * (4 + 4 + 5)  # value, gradient, index
    assert total["indices"] + 50 * 5 == sum(t.nbytes for t in layer.index)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_sparsity_out_of_range(sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1\)"):
        sk.SparseLinear(4, 4, sparsity=sparsity)
    with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1\)"):
        sk.sparsify(nn.Linear(4, 4), sparsity)


def test_constructor_errors() -> None:
    topology = sk.Topology.random((3, 4), 5)
    with pytest.raises(ValueError, match="exactly one"):
        sk.SparseLinear(4, 3)
    with pytest.raises(ValueError, match="exactly one"):
        sk.SparseLinear(4, 3, sparsity=0.5, topology=topology)
    with pytest.raises(ValueError, match=r"shape \(4, 4\).*got \(3, 4\)"):
        sk.SparseLinear(4, 4, topology=topology)
    with pytest.raises(ValueError, match="backend must be one of"):
        sk.SparseLinear(4, 3, sparsity=0.5, backend="quick")
    with pytest.raises(ValueError, match="mask must have shape"):
        sk.SparseLinear.from_dense(nn.Linear(4, 3), torch.ones(4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="bool"):
        sk.SparseLinear.from_dense(nn.Linear(4, 3), torch.ones(3, 4))


@pytest.mark.parametrize("backend", ["sparse", "dense", "masked"])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_layers_without_features(backend: str, shape: tuple[int, int]) -> None:
    layer = sk.SparseLinear(*shape, sparsity=0.0, backend=backend)
    for batch in ((), (0,), (2, 3)):
        x = torch.randn(*batch, shape[0], requires_grad=True)
        output = layer(x)
        assert output.shape == (*batch, shape[1])
        assert torch.equal(output, layer.bias.expand_as(output))  # type: ignore[union-attr]
        output.sum().backward()
        assert x.grad is not None
        assert not x.grad.any()

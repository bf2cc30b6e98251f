"""SparseConv2d behaves as users of nn.Conv2d expect."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import nn

import sparsekern as sk
from sparsekern.topology import PACKED

GEOMETRIES: dict[str, dict[str, Any]] = {
    "1x1": {"kernel_size": 1},
    "3x3": {"kernel_size": 3, "padding": 1},
    "no bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "3x2, stride 2x1": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 2)},
    "same": {"kernel_size": (3, 4), "padding": "same", "dilation": (2, 1)},
    "valid": {"kernel_size": 2, "padding": "valid", "stride": 3},
    "groups": {"kernel_size": 3, "groups": 2, "padding": 1},
    "depthwise": {"kernel_size": 3, "groups": 6, "padding": 1, "stride": 2},
    "reflect": {"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"},
    "replicate same": {"kernel_size": (3, 4), "padding": "same", "padding_mode": "replicate"},
    "circular": {"kernel_size": (2, 3), "padding": 2, "padding_mode": "circular", "stride": 2, "groups": 3},
}
FORMATS = {
    "batch": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "unbatched": lambda x: x[0],
    "no batch at all": lambda x: x[:0],
}


def dense_and_mask(geometry: str = "3x3", dtype: torch.dtype = torch.double) -> tuple[nn.Conv2d, torch.Tensor]:
    conv = nn.Conv2d(6, 12, **GEOMETRIES[geometry], dtype=dtype)
    return conv, torch.rand(conv.weight.shape) < 0.4


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("backend", ["auto", "sparse", "dense", "masked"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_from_dense_computes_the_masked_layer(geometry: str, backend: str) -> None:
    conv, mask = dense_and_mask(geometry)
    layer = sk.SparseConv2d.from_dense(conv, mask, backend=backend)
    twin = copy.deepcopy(conv)
    with torch.no_grad():
        twin.weight.mul_(mask)
    exact = {"rtol": 0.0, "atol": 0.0} if backend == "masked" else {}
    for change in FORMATS.values():
        x = change(torch.randn(3, 6, 9, 8, dtype=torch.double)).requires_grad_()
        same = x.detach().clone().requires_grad_()
        output, expected = layer(x), twin(same)
        torch.testing.assert_close(output, expected, **exact)
        assert output.stride() == expected.stride()
        delta = torch.randn_like(output)
        layer.zero_grad()
        twin.zero_grad()
        output.backward(delta)
        expected.backward(delta)
        torch.testing.assert_close(x.grad, same.grad, **exact)
        torch.testing.assert_close(layer.values.grad, twin.weight.grad[mask], **exact)
        if conv.bias is not None:
            torch.testing.assert_close(layer.bias.grad, twin.bias.grad, **exact)
    back = layer.to_dense()
    assert repr(back) == repr(conv)
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), twin.parameters(), strict=True))


def test_the_constructor_is_that_of_conv2d() -> None:
    layer = sk.SparseConv2d(6, 4, 3, 2, 1, 1, 2, False, "reflect", None, torch.double, sparsity=0.5)
    dense = nn.Conv2d(6, 4, 3, 2, 1, 1, 2, False, "reflect", None, torch.double)
    assert layer.weight_shape == tuple(dense.weight.shape)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {"values": (54,)}
    assert layer.values.dtype == torch.double
    for name in layer.SETTINGS:
        assert getattr(layer, name) == getattr(dense, name)
    described = repr(layer).removeprefix("SparseConv2d(").split(", nnz=54")[0]
    for part in (
        "6, 4",
        "kernel_size=(3, 3)",
        "stride=(2, 2)",
        "padding=(1, 1)",
        "groups=2",
        "bias=False",
        "'reflect'",
    ):
        assert part in described


def test_constructor_errors() -> None:
    topology = sk.Topology.random((4, 3, 3, 3), 5)
    for arguments, message in (
        ({"kernel_size": 3}, "exactly one"),
        ({"kernel_size": 2, "topology": topology}, r"shape \(4, 3, 2, 2\), got \(4, 3, 3, 3\)"),
        ({"kernel_size": 3, "topology": sk.Topology.random((4, 27), 5)}, r"got \(4, 27\)"),
        ({"kernel_size": 3, "sparsity": 0.5, "groups": 2}, "groups must divide"),
        ({"kernel_size": 0, "sparsity": 0.5}, "kernel_size must be"),
        ({"kernel_size": (3, 3, 3), "sparsity": 0.5}, "kernel_size must be"),
        ({"kernel_size": 3, "sparsity": 0.5, "padding": -1}, "padding must be"),
        ({"kernel_size": 3, "sparsity": 0.5, "padding": (1, 1, 1, 1)}, "padding must be"),
        ({"kernel_size": 3, "sparsity": 0.5, "padding": "full"}, "padding must be"),
        ({"kernel_size": 3, "sparsity": 0.5, "padding": "same", "stride": 2}, "needs stride 1"),
        ({"kernel_size": 3, "sparsity": 0.5, "padding_mode": "mirror"}, "padding_mode must be one of"),
        ({"kernel_size": 3, "sparsity": 0.5, "backend": "quick"}, "backend must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            sk.SparseConv2d(3, 4, **arguments)
    conv, mask = dense_and_mask()
    with pytest.raises(ValueError, match="mask must have shape"):
        sk.SparseConv2d.from_dense(conv, mask[:3])
    with pytest.raises(ValueError, match=r"expected a torch\.nn\.Conv2d, got Linear"):
        sk.SparseConv2d.from_dense(nn.Linear(3, 4), torch.ones(4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="index describes 54 weights"):
        sk.SparseConv2d.from_dense(conv, mask)(torch.randn(2, 5, 9, 8, dtype=torch.double))


def test_new_weights_have_variance_one_over_fan_in() -> None:
    layer = sk.SparseConv2d(40, 300, 3, sparsity=0.5)
    fan_in = layer.row_ptr.diff().repeat_interleave(layer.row_ptr.diff())
    assert abs(float((layer.values.detach() * fan_in.sqrt()).var()) - 1) < 0.02
    assert float(layer.bias.detach().abs().max()) <= (40 * 9) ** -0.5


def test_files_copies_and_pickles() -> None:
    source, x = sk.SparseConv2d(6, 12, 3, padding=1, sparsity=0.5), torch.randn(2, 6, 5, 4)
    expected, state = source(x), source.state_dict()
    assert list(state) == ["values", "bias", "row_ptr", "col"]
    roomy = sk.SparseConv2d(6, 12, 3, padding=1, topology=sk.Topology.random((12, 6, 3, 3), 10, capacity=500))
    for target in (sk.SparseConv2d(6, 12, 3, padding=1, sparsity=0.9), roomy):
        target.load_state_dict(state)
        torch.testing.assert_close(target(x), expected)
    for twin in (copy.deepcopy(source), pickle.loads(pickle.dumps(source))):
        torch.testing.assert_close(twin(x), expected)
    with pytest.raises(RuntimeError, match=r"col must lie in \[0, 45\)"):
        sk.SparseConv2d(5, 12, 3, sparsity=0.5).load_state_dict(state)


@pytest.mark.parametrize("sparsity", [0.05, 0.3, 0.55, 0.65, 0.9])
@pytest.mark.parametrize("kind", [sk.SparseConv2d, sk.MaskedConv2d])
def test_many_nonzeros_are_held_as_a_bitmask(kind: Any, sparsity: float) -> None:
    layer = kind(16, 32, 3, sparsity=sparsity, backend="sparse", bias=False, dtype=torch.double)
    assert layer.kernel == "csr"
    assert (layer.topology.views == PACKED) == (sparsity < 0.6)
    row = sk.memory_report(kind(64, 64, 3, sparsity=sparsity, backend="sparse", bias=False)).rows[0]
    assert row["indices"] + row["dense_values"] * (1 - sparsity) < row["dense_values"]
    mask = layer.topology.mask()
    assert torch.equal(layer.state_dict()["col"], mask.flatten(1).nonzero()[:, 1].int())
    weight = layer.dense_weight().detach().requires_grad_()
    x = torch.randn(3, 16, 6, 6, dtype=torch.double, requires_grad=True)
    output, expected = layer(x), nn.functional.conv2d(x, weight)
    delta = torch.randn_like(expected)
    torch.testing.assert_close(output, expected)
    gradients = torch.autograd.grad(output, (x, layer.stored), delta)
    wanted = torch.autograd.grad(expected, (x, weight), delta)
    torch.testing.assert_close(gradients[0], wanted[0])
    torch.testing.assert_close(gradients[1] if gradients[1].dim() == 1 else gradients[1][mask], wanted[1][mask])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_and_narrow_dtypes(dtype: torch.dtype) -> None:
    layer, x = sk.SparseConv2d(6, 12, 3, sparsity=0.5), torch.randn(2, 6, 5, 4)
    with torch.autocast("cpu", dtype):
        output = layer(x)
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), layer(x), atol=0.05, rtol=0.05)
    output.float().sum().backward()
    assert layer.values.grad.dtype == torch.float32
    assert layer.to(dtype)(x.to(dtype)).dtype == dtype


def test_memory_report() -> None:
    layer = sk.SparseConv2d(8, 16, 3, sparsity=0.9, backend="sparse")
    total = sk.memory_report(layer).total
    assert total["values"] == total["gradients"] == sum(p.nbytes for p in layer.parameters())
    assert total["indices"] == sum(t.nbytes for t in layer.index)
    assert total["dense_values"] == 4 * (8 * 16 * 9 + 16)
    assert total["slack"] == total["scratch"] == 0


@pytest.mark.parametrize("backend", ["sparse", "dense"])
def test_compiles_without_graph_breaks_and_once_for_every_pattern(backend: str) -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    layer = sk.SparseConv2d(6, 12, 3, padding=1, padding_mode="circular", sparsity=0.5, backend=backend)
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    x = torch.randn(2, 6, 5, 4, requires_grad=True)
    for _ in range(3):
        layer.zero_grad()
        compiled(x).square().sum().backward()
        got = layer.values.grad.clone()
        layer.zero_grad()
        layer(x).square().sum().backward()
        torch.testing.assert_close(got, layer.values.grad)
        layer.set_topology(sk.Topology.random(layer.weight_shape, layer.topology.nnz))
    assert counter.frame_count == 1

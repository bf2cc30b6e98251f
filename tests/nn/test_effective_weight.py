"""`layer.weight`: what the layer computes with, for code that reads or writes it."""

import copy
from typing import Any

import pytest
import torch
from support.weighted_layers import LAYERS, make
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from torch.nn.utils import prune, spectral_norm, weight_norm

import sparsekern as sk

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.fixture(params=LAYERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return linear(x, weight, bias) if weight.dim() == 2 else conv2d(x, weight, bias)


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_the_weight_that_the_layer_computes_with(name: str, dtype: torch.dtype) -> None:
    layer, x = make(name, dtype)
    torch.testing.assert_close(product(x, layer.weight, layer.bias), layer(x))
    assert torch.equal(layer.weight != 0, layer.topology.mask())
    assert torch.equal(layer.weight, layer.to_dense().weight)


@pytest.mark.parametrize("weight_gradient", ["dense", "active"])
def test_gradients_are_those_of_the_layer(name: str, weight_gradient: str) -> None:
    layer, x = make(name, **({"weight_gradient": weight_gradient} if "masked" in name else {}))
    layer(x).square().sum().backward()
    expected, layer.stored.grad = layer.stored.grad, None
    product(x, layer.weight, layer.bias).square().sum().backward()
    torch.testing.assert_close(layer.stored.grad, expected)
    assert layer.weight.grad.shape == layer.weight_shape
    twin = layer.to_dense()
    twin(x).square().sum().backward()
    mask = layer.topology.mask()
    visible = torch.ones_like(mask) if "masked" in name and weight_gradient == "dense" else mask
    torch.testing.assert_close(layer.weight.grad, twin.weight.grad * visible)
    layer.weight.grad = None
    assert layer.stored.grad is None


def test_facts_are_told_without_making_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, _ = make(name)
    twin = layer.to_dense().weight
    monkeypatch.setattr(type(layer), "dense_weight", lambda self: pytest.fail("the weight was made"))
    weight = layer.weight
    assert isinstance(weight, Tensor)
    assert (weight.shape, weight.dtype, weight.device) == (twin.shape, twin.dtype, twin.device)
    assert (weight.ndim, weight.numel(), len(weight), weight.size(0)) == (twin.ndim, twin.numel(), len(twin), len(twin))
    assert weight.data.dtype == torch.float64
    assert weight.requires_grad
    assert not weight.data.requires_grad
    assert weight.is_floating_point()
    assert weight.grad is None
    assert weight.is_contiguous()


def xavier(weight: Tensor) -> None:
    torch.manual_seed(3)
    nn.init.xavier_uniform_(weight)


def add_to_data(weight: Tensor) -> None:
    weight.data += torch.arange(weight.numel(), dtype=weight.dtype).reshape(weight.shape)


def set_data(weight: Tensor) -> None:
    weight.data = weight.data * 3 + 1


def inplace(weight: Tensor) -> None:
    with torch.no_grad():
        weight.mul_(2).clamp_(-0.1, 0.1)
        weight[0] = 7.0


def through_out(weight: Tensor) -> None:
    torch.mul(weight.detach(), 2, out=weight.data)


def several(weight: Tensor) -> None:
    with torch.no_grad():
        torch._foreach_mul_([weight], 3.0)


def orthogonal(weight: Tensor) -> None:
    torch.manual_seed(3)
    nn.init.orthogonal_(weight, gain=2.0)
    nn.init.normal_(weight)
    nn.init.constant_(weight.data[2], 0.5)
    nn.init.kaiming_uniform_(weight)


def a_row(weight: Tensor) -> None:
    weight.data[1].zero_()
    weight.detach()[2:4].mul_(3)
    with torch.no_grad():
        weight[0, 0].fill_(5.0)


def other_shapes(weight: Tensor) -> None:
    flat = weight.data.view(-1)
    flat[::2] = 1.0
    flat.data.add_(1)
    weight.data.transpose(0, 1)[1].neg_()
    weight.data.flatten(1).t().mul_(torch.arange(8.0 if weight.dim() == 2 else 6.0, dtype=weight.dtype))


def each_row(weight: Tensor) -> None:
    with torch.no_grad():
        for row in weight:
            row.div_(1 + row.norm())
        first, second = weight.chunk(2)
        second.mul_(first.mean())
        first.copy_(second)


def itself(weight: Tensor) -> None:
    weight.data.contiguous().mul_(2)
    weight.data.to(weight.dtype).add_(1)


def in_inference_mode(weight: Tensor) -> None:
    with torch.inference_mode():
        weight.mul_(3)
        weight[1].add_(2)
        assert weight.sum() + 0 == weight.sum()


WRITES = [xavier, add_to_data, set_data, inplace, through_out, several]
WRITES += [orthogonal, a_row, other_shapes, each_row, itself, in_inference_mode]


@pytest.mark.parametrize("write", WRITES)
def test_writes_reach_the_active_weights(name: str, write: Any) -> None:
    layer, x = make(name)
    twin, mask = layer.to_dense(), layer.topology.mask()
    hidden = layer.stored.detach().clone()
    write(layer.weight)
    write(twin.weight)
    with torch.no_grad():
        twin.weight.mul_(mask)
    assert torch.equal(layer.weight, twin.weight)
    torch.testing.assert_close(layer(x), twin(x))
    if "masked" in name:
        assert torch.equal(layer.master[~mask], hidden[~mask])


def test_what_is_computed_in_place_may_be_assigned_to_itself(name: str) -> None:
    layer, _ = make(name)
    twin, mask = layer.to_dense(), layer.topology.mask()
    with torch.no_grad():
        for module in (layer, twin):
            module.weight -= 0.1
            module.weight *= 2
            module.weight.data += 0.5
        twin.weight.mul_(mask)
    assert torch.equal(layer.weight, twin.weight)
    other, _ = make(name)
    with pytest.raises(TypeError, match="cannot assign EffectiveWeight"):
        layer.weight = other.weight


def test_changes_in_place_are_refused_while_gradients_are_recorded(name: str) -> None:
    layer, _ = make(name)
    before = layer.stored.detach().clone()
    with pytest.raises(RuntimeError, match=r"within torch\.no_grad"):
        layer.weight.mul_(2)
    assert torch.equal(layer.stored, before)
    for part in (layer.weight[0], layer.weight.view(-1), layer.weight.flatten(1).t()):
        with pytest.raises(RuntimeError, match=r"within torch\.no_grad"):
            part.mul_(2)
    assert torch.equal(layer.stored, before)


def test_what_would_be_lost_is_refused(name: str) -> None:
    layer, _ = make(name)
    for call in (lambda w: w.register_hook(print), lambda w: w.retain_grad(), lambda w: w.data_ptr()):
        with pytest.raises(RuntimeError, match=r"would be lost.*\.stored"):
            call(layer.weight)
    with pytest.raises(TypeError, match=r"cannot assign Tensor.*nn\.Parameter"):
        layer.weight = torch.zeros(layer.weight_shape)
    with pytest.raises(ValueError, match="nonzeros where the layer has none"):
        layer.weight = nn.Parameter(torch.ones(layer.weight_shape))
    with pytest.raises(ValueError, match="weight must have shape"):
        layer.weight = nn.Parameter(torch.zeros(2, 2))


def test_a_parameter_that_fits_may_be_assigned(name: str) -> None:
    layer, x = make(name)
    twin = layer.to_dense()
    twin.weight = nn.Parameter(twin.weight * 2)
    layer.weight = nn.Parameter(layer.weight * 2)
    torch.testing.assert_close(layer(x), twin(x))
    assert len(list(layer.parameters())) == 2


def test_batch_norm_is_folded(name: str) -> None:
    layer, x = make(name)
    if x.dim() != 4:
        fuse, norm = nn.utils.fuse_linear_bn_eval, nn.BatchNorm1d(8)
    else:
        fuse, norm = nn.utils.fuse_conv_bn_eval, nn.BatchNorm2d(6)
    norm = norm.double()
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 2.0)
    fused = fuse(layer.eval(), norm.eval())
    assert type(fused) is type(layer)
    torch.testing.assert_close(fused(x), norm(layer(x)))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_what_makes_weights_of_others_says_why_it_does_not_fit(name: str) -> None:
    for change in (weight_norm, spectral_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.5)):
        layer, x = make(name)
        before = layer(x)
        with pytest.raises(TypeError, match=r"has no Parameter 'weight'.*before sparsify"):
            change(layer)
        assert torch.equal(layer(x), before)


def test_copies_are_dense(name: str, tmp_path: Any) -> None:
    layer, _ = make(name)
    expected = layer.to_dense().weight.detach()
    torch.save(layer.weight, tmp_path / "weight.pt")
    for twin in (copy.deepcopy(layer.weight), layer.weight.clone(), torch.load(tmp_path / "weight.pt")):
        assert type(twin) is Tensor
        assert torch.equal(twin, expected)
    assert "EffectiveWeight" not in repr(layer.weight)


@pytest.mark.parametrize("method", ["dpf", "optg", "set", "gse_grabo"])
def test_a_head_that_reads_the_weight_trains_as_one_that_is_called(method: str) -> None:
    class Head(nn.Module):
        def __init__(self, reads: bool) -> None:
            super().__init__()
            self.fc, self.reads = nn.Linear(10, 6), reads

        def forward(self, x: Tensor) -> Tensor:
            return linear(x, self.fc.weight, self.fc.bias) if self.reads else self.fc(x)

    outputs = []
    for reads in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 10), nn.Tanh(), Head(reads)).double()
        chosen = sk.methods.get(method)(
            sparsity=0.6, total_steps=40, steps_per_epoch=5, **({"every": 40} if method in ("set", "gse_grabo") else {})
        )
        sk.sparsify(model, chosen, generator=torch.Generator().manual_seed(0))
        optimizer = sk.Sparsifier(
            model,
            torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
            chosen,
            generator=torch.Generator().manual_seed(1),
        )
        x = torch.randn(16, 10, dtype=torch.float64)
        for _ in range(20):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        outputs.append(model(x))
    torch.testing.assert_close(*outputs)


def test_a_transformer_evaluates_as_it_trains() -> None:
    """Its fast path in evaluation reads the weights of its layers."""
    layer: Any = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    method = sk.methods.dpf(sparsity=0.8, total_steps=40, steps_per_epoch=4)
    sk.sparsify(layer, method)
    optimizer = sk.Sparsifier(layer, torch.optim.SGD(layer.parameters(), lr=0.1), method)
    x = torch.randn(3, 5, 16)
    for _ in range(40):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    assert layer.linear1.topology.nnz < layer.linear1.master.numel()
    expected = layer(x)
    layer.eval()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)


def test_a_weight_made_by_a_transform_is_not_written() -> None:
    method = sk.methods.str(sparsity=0.5, total_steps=10)
    model: Any = sk.sparsify(nn.Sequential(nn.Linear(6, 4)), method)
    assert torch.equal(model[0].weight, model[0].to_dense().weight)
    with pytest.raises(RuntimeError, match=r"write to layer\.master"):
        model[0].weight.data.mul_(2)


def test_marks_of_the_parameter_are_seen_through_the_weight() -> None:
    layer: Any = sk.SparseLinear(4, 3, sparsity=0.5)
    layer.stored.mark = "mine"
    assert layer.weight.mark == "mine"
    assert not hasattr(layer.weight, "other")

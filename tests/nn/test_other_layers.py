"""1-D, 3-D and transposed convolutions with a pattern compute what their dense twins do under a mask."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.nn import MaskedLayer, SparseLayer, memory_report, prunable_layers
from sparsekern.nn.conversion.registry import MASKED, SPARSE, sparse_class

Make = Callable[..., Any]
LAYERS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "1-D": (lambda **o: nn.Conv1d(4, 6, 3, padding=1, **o), (5, 4, 9)),
    "1-D, strides and groups": (lambda **o: nn.Conv1d(4, 6, 4, 3, 2, groups=2, bias=False, **o), (3, 4, 11)),
    "1-D, same": (lambda **o: nn.Conv1d(4, 5, 4, padding="same", dilation=2, **o), (2, 4, 9)),
    "1-D, reflect": (lambda **o: nn.Conv1d(4, 5, 3, padding=2, padding_mode="reflect", **o), (2, 4, 7)),
    "1-D, circular": (lambda **o: nn.Conv1d(4, 5, 4, padding="same", padding_mode="circular", **o), (2, 4, 7)),
    "1-D, depthwise": (lambda **o: nn.Conv1d(6, 6, 3, groups=6, **o), (3, 6, 8)),
    "1-D, no batch": (lambda **o: nn.Conv1d(4, 6, 3, **o), (4, 9)),
    "3-D": (lambda **o: nn.Conv3d(3, 4, (2, 3, 1), (1, 2, 1), (1, 0, 0), **o), (2, 3, 4, 5, 3)),
    "3-D, same": (lambda **o: nn.Conv3d(2, 4, (2, 3, 2), padding="same", groups=2, **o), (2, 2, 3, 4, 3)),
    "3-D, replicate": (lambda **o: nn.Conv3d(2, 3, 2, padding=1, padding_mode="replicate", **o), (2, 2, 3, 4, 3)),
    "3-D, no batch": (lambda **o: nn.Conv3d(2, 3, 2, bias=False, **o), (2, 3, 4, 3)),
    "transposed 1-D": (lambda **o: nn.ConvTranspose1d(3, 5, 4, 2, 1, 1, **o), (4, 3, 6)),
    "transposed 2-D": (lambda **o: nn.ConvTranspose2d(3, 4, (3, 2), 2, dilation=2, **o), (2, 3, 4, 5)),
    "transposed 3-D": (lambda **o: nn.ConvTranspose3d(2, 3, 2, bias=False, **o), (2, 2, 3, 2, 3)),
}
layers = pytest.mark.parametrize("name", LAYERS)
BATCHES = [name for name in LAYERS if "no batch" not in name]
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


def example(name: str) -> tuple[Any, Tensor, Tensor]:
    """A dense layer, a mask and an input."""
    make, shape = LAYERS[name]
    dense = make(dtype=torch.double)
    return dense, torch.rand(dense.weight.shape) < 0.4, torch.randn(shape, dtype=torch.double)


def twin_of(dense: Any, mask: Tensor) -> Any:
    twin = copy.deepcopy(dense)
    twin.weight.data.mul_(mask)
    return twin


@layers
@pytest.mark.parametrize("backend", ["auto", "sparse", "dense", "masked"])
def test_nonzeros_compute_the_masked_layer(name: str, backend: str) -> None:
    dense, mask, x = example(name)
    layer, twin = SPARSE[type(dense)].from_dense(dense, mask, backend=backend), twin_of(dense, mask)
    x.requires_grad_()
    same = x.detach().clone().requires_grad_()
    output, expected = layer(x), twin(same)
    torch.testing.assert_close(output, expected)
    delta = torch.randn_like(output)
    output.backward(delta)
    expected.backward(delta)
    torch.testing.assert_close(x.grad, same.grad)
    torch.testing.assert_close(layer.weight.grad, twin.weight.grad * mask)
    assert layer.values.shape == (int(mask.sum()),)
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, twin.bias.grad)


@layers
def test_a_mask_gives_the_whole_gradient_straight_through(name: str) -> None:
    dense, mask, x = example(name)
    layer, twin = MASKED[type(dense)].from_dense(dense, mask), twin_of(dense, mask)
    output, expected = layer(x), twin(x)
    torch.testing.assert_close(output, expected)
    delta = torch.randn_like(output)
    output.backward(delta)
    expected.backward(delta)
    torch.testing.assert_close(layer.weight.grad, twin.weight.grad)
    layer.zero_grad()
    layer.weight_gradient = "active"
    layer(x).backward(delta)
    torch.testing.assert_close(layer.weight.grad, twin.weight.grad * mask)


@pytest.mark.parametrize("name", BATCHES)
def test_second_moments_and_growth_statistics(name: str) -> None:
    dense, mask, x = example(name)
    twin = twin_of(dense, mask)
    output = twin(x)
    delta = torch.randn_like(output)
    shares = [torch.autograd.grad(twin(a[None]), twin.weight, d[None])[0] for a, d in zip(x, delta, strict=True)]
    rows = sparse_class(dense).rows_of
    gradient, moment = rows(sum(shares)), rows(sum(share.square() for share in shares))

    masked = MASKED[type(dense)].from_dense(dense, mask, weight_gradient="moment")
    masked(x).backward(delta)
    torch.testing.assert_close(masked.moment, moment)
    torch.testing.assert_close(masked.master.grad, gradient)

    layer = SPARSE[type(dense)].from_dense(dense, mask)
    probe = layer.probe = layer.new_probe()
    layer(x).backward(delta)
    torch.testing.assert_close(probe.dense_gradient(), gradient)
    for got, wanted in zip(probe.gradient_and_moment()[:2], (gradient, moment), strict=True):
        torch.testing.assert_close(got, wanted)
    some = torch.randperm(gradient.numel())[:7]
    torch.testing.assert_close(probe.gradient_at(some), gradient.flatten()[some])
    # GraBo: a bound of the gradient at every entry.
    groups = getattr(dense, "groups", 1)
    bound = probe.row_weight().view(groups, -1, 1) * probe.col_weight().view(groups, 1, -1)
    assert (gradient.abs().view(bound.shape) <= bound * (1 + 1e-9)).all()
    # GraEst: the outer product of the sums is the gradient in expectation, and exactly if only one position counts.
    signs = torch.Generator().manual_seed(0)
    draws, mean = 400, torch.zeros_like(bound)
    for _ in range(draws):
        g, f = probe.signed_sums(lambda n: 2 * torch.randint(2, (n,), generator=signs) - 1)
        mean += g.view(groups, -1, 1) * f.view(groups, 1, -1) / draws
    error = (mean - gradient.view(bound.shape)).norm() / gradient.norm()
    assert error < 1.0


@layers
@pytest.mark.parametrize("kinds", [SPARSE, MASKED], ids=["nonzeros", "mask"])
def test_conversion_files_and_copies(name: str, kinds: dict) -> None:
    dense, mask, x = example(name)
    layer = kinds[type(dense)].from_dense(dense, mask)
    expected = twin_of(dense, mask)
    back = layer.to_dense()
    assert type(back) is type(dense)
    assert back.extra_repr() == dense.extra_repr()
    torch.testing.assert_close(back.weight, expected.weight, rtol=0, atol=0)
    torch.testing.assert_close(layer.weight + 0, expected.weight)
    assert layer.weight.shape == dense.weight.shape
    other = kinds[type(dense)].from_dense(copy.deepcopy(dense), torch.rand_like(dense.weight) < 0.6)
    other.load_state_dict(layer.state_dict())
    for twin in (other, copy.deepcopy(layer), torch.load(_saved(layer), weights_only=False)):
        torch.testing.assert_close(twin(x), expected(x))
    with torch.no_grad():
        layer.weight.mul_(2)
        expected.weight.mul_(2)
    torch.testing.assert_close(layer(x), expected(x))
    fresh = kinds[type(dense)].from_topology(layer, layer.topology)
    torch.testing.assert_close(fresh(x), expected(x))


def _saved(layer: nn.Module) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return file


@layers
def test_a_model_is_converted_counted_and_converted_back(name: str) -> None:
    dense, mask, x = example(name)
    model = nn.Sequential(copy.deepcopy(dense))
    sk.sparsify(model, masks={"0": mask})
    expected = twin_of(dense, mask)
    torch.testing.assert_close(model(x), expected(x))
    (row,) = memory_report(model).rows
    assert row["values"] == 8 * int(mask.sum()) + (0 if dense.bias is None else 8 * len(dense.bias))
    count = sk.flops(model, x.clone().requires_grad_())
    assert count.forward * mask.numel() == pytest.approx(count.dense_forward * int(mask.sum()))
    twin = copy.deepcopy(expected)
    twin_model: Any = sk.sparsify(nn.Sequential(twin), masks="nonzero")
    assert torch.equal(twin_model[0].weight + 0 != 0, expected.weight != 0)
    sk.densify(model)
    assert type(model[0]) is type(dense)
    torch.testing.assert_close(model(x), expected(x))


@pytest.mark.parametrize("kinds", [SPARSE, MASKED], ids=["sparse", "masked"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_convolutions_take_the_size_of_their_output(dims: int, kinds: Any) -> None:
    make: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    dense = make(3, 4, 3, 2, 1, dtype=torch.double)
    mask = torch.rand(dense.weight.shape) < 0.4
    layer, twin = kinds[make].from_dense(dense, mask), twin_of(dense, mask)
    x = torch.randn(2, 3, *(5, 4, 3)[:dims], dtype=torch.double)
    for size in ((10, 8, 6)[:dims], (9, 8, 5)[:dims], (2, 4, *(9, 7, 6)[:dims])):
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [module(part, output_size=size) for module, part in zip((layer, twin), inputs, strict=True)]
        torch.testing.assert_close(*outputs)
        delta = torch.randn_like(outputs[0])
        for module, output in zip((layer, twin), outputs, strict=True):
            module.zero_grad()
            output.backward(delta)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
        torch.testing.assert_close(layer.weight.grad * mask, twin.weight.grad * mask)
    torch.testing.assert_close(layer(x), twin(x))
    with pytest.raises(ValueError, match=r"output_size must be between \[9, ?.*\] and \[10, ?.*\]|\[9\] and \[10\]"):
        layer(x, output_size=[11, 7, 6][:dims])


def test_growth_sees_the_size_of_the_output() -> None:
    method = sk.methods.rigl(sparsity=0.5, total_steps=40, every=1)
    model: Any = sk.sparsify(nn.Sequential(nn.ConvTranspose2d(2, 3, 3, 2, 1)).double(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.0), method)
    x, before, twin = torch.randn(2, 2, 4, 4, dtype=torch.double), torch.empty(0), model
    for _ in range(2):  # the first step changes nothing
        before = model[0].topology.mask()
        twin = sk.densify(copy.deepcopy(model))
        twin[0](x, output_size=(8, 8)).square().sum().backward()
        optimizer.zero_grad()
        model[0](x, output_size=(8, 8)).square().sum().backward()
        optimizer.step()
    grown, score = model[0].topology.mask() & ~before, twin[0].weight.grad.abs().transpose(0, 1)
    assert grown.any()
    assert score[grown].min() >= score[~grown & ~before].max()


def test_transposed_convolutions_in_groups_stay_dense() -> None:
    model = nn.Sequential(nn.Conv3d(2, 4, 1), nn.ConvTranspose3d(4, 4, 1, groups=2))
    assert list(prunable_layers(model)) == ["0"]
    with pytest.raises(ValueError, match="one group"):
        SPARSE[nn.ConvTranspose3d](4, 4, 1, groups=2, sparsity=0.5)
    with pytest.raises(ValueError, match=r"expected a number or 3 of them, got \(1, 2\)"):
        SPARSE[nn.Conv3d](4, 4, (1, 2), sparsity=0.5)


@pytest.mark.parametrize("name", ["1-D", "3-D", "transposed 2-D"])
def test_compiled_without_a_break(name: str) -> None:
    dense, mask, x = example(name)
    layer = SPARSE[type(dense)].from_dense(dense, mask)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), twin_of(dense, mask)(x))


def test_classes_are_those_of_the_storages() -> None:
    assert all(issubclass(kind, SparseLayer) for kind in SPARSE.values())
    assert all(issubclass(kind, MaskedLayer) and kind.SPARSE is SPARSE[dense] for dense, kind in MASKED.items())

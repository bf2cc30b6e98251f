"""What a layer returns may be changed in place, as what nn.Linear and nn.Conv2d return."""

import copy
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from support.masked_twins import DENSE, example
from torch import Tensor, nn
from torch.nn import functional as F

import sparsekern as sk
from sparsekern.nn import MaskedLayer

BACKENDS = ("sparse", "dense", "masked")
STORAGES = ("nonzeros", "dense", "active", "moment", "bits", "transform")
# a second moment needs a batch
UNBATCHED = [("vector", "moment"), ("one image", "moment")]
CASES = [case for case in product(DENSE, STORAGES) if case not in UNBATCHED]
Change = Callable[[Tensor, Tensor], Tensor]


def _part(h: Tensor, other: Tensor) -> Tensor:
    h[..., 0].mul_(other[..., 0])
    return h


# each in place and not
CHANGES: dict[str, tuple[Change, Change]] = {
    "relu": (lambda h, other: torch.relu_(h), lambda h, other: torch.relu(h)),
    "add": (lambda h, other: h.add_(other), lambda h, other: h + other),
    "multiply": (lambda h, other: h.mul_(other), lambda h, other: h * other),
    "dropout": (lambda h, other: F.dropout(h, 0.3, True, True), lambda h, other: F.dropout(h, 0.3, True)),
    "part": (_part, lambda h, other: torch.cat([(h * other)[..., :1], h[..., 1:]], -1)),
}


def layer_of(storage: str, dense: Any, mask: Tensor, backend: str) -> Any:
    linear = isinstance(dense, nn.Linear)
    if storage == "nonzeros":
        return (sk.SparseLinear if linear else sk.SparseConv2d).from_dense(dense, mask, backend=backend)
    gradient: Any = {"bits": "dense", "transform": "active"}.get(storage, storage)
    kind = sk.MaskedLinear if linear else sk.MaskedConv2d
    layer = kind.from_dense(dense, mask, backend=backend, weight_gradient=gradient)
    if storage == "bits":
        layer.set_kernel("bits", "a test")
    if storage == "transform":
        layer.transform = nn.Tanh()
    return layer


def changed(layer: Any, x: Tensor, change: Change, armed: bool) -> list[Tensor]:
    """Output, gradients and records."""
    layer, x = copy.deepcopy(layer), x.clone().requires_grad_()
    if armed:
        layer.probe = layer.new_probe()
    torch.manual_seed(1)
    h = layer(x)
    other = torch.randn(h.shape, dtype=h.dtype)
    output = change(h, other)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    found = [output.detach(), x.grad, *(p.grad for p in layer.parameters())]
    if armed:
        (record,) = layer.probe.records
        found += record
    if isinstance(layer, MaskedLayer) and layer.weight_gradient == "moment":
        found.append(layer.moment)
    assert all(isinstance(tensor, Tensor) for tensor in found)
    return found  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("armed", [False, True])
@pytest.mark.parametrize(("name", "storage"), CASES)
def test_equals_what_is_not_changed_in_place(name: str, storage: str, armed: bool) -> None:
    dense, mask, x = example(name)
    for backend, whole in product(BACKENDS, (False, True)):
        layer = layer_of(storage, dense, torch.ones_like(mask) if whole else mask, backend)
        for inplace, plain in CHANGES.values():
            got, expected = (changed(layer, x, change, armed) for change in (inplace, plain))
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", ["linear", "3x3"])
def test_under_autocast(name: str, storage: str) -> None:
    dense, mask, x = example(name, torch.float32)
    for backend in BACKENDS:
        layer = layer_of(storage, dense, mask, backend)
        with torch.autocast("cpu", torch.bfloat16):
            got, expected = (changed(layer, x, change, True) for change in CHANGES["relu"])
        assert got[0].dtype == torch.bfloat16
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("name", "storage"), [("linear", "nonzeros"), ("linear", "dense"), ("3x3", "active")])
def test_in_one_compiled_graph(name: str, storage: str) -> None:
    dense, mask, x = example(name)
    layer = layer_of(storage, dense, mask, "sparse")
    model = nn.Sequential(layer, nn.ReLU(inplace=True))
    output = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    output.square().sum().backward()
    gradient, layer.stored.grad = layer.stored.grad, None
    expected = torch.relu(layer(x))
    expected.square().sum().backward()
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradient, layer.stored.grad)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("storage", STORAGES)
def test_without_gradients(storage: str, mode: Callable[[], Any]) -> None:
    dense, mask, x = example("linear")
    layer = layer_of(storage, dense, mask, "sparse")
    layer.probe = layer.new_probe()
    with mode():
        torch.testing.assert_close(torch.relu_(layer(x)), torch.relu(layer(x)))


@pytest.mark.parametrize("storage", STORAGES)
def test_hooks_on_the_output_see_its_gradient_before_the_change(storage: str) -> None:
    dense, mask, x = example("linear")
    layer, seen = layer_of(storage, dense, mask, "sparse"), []
    layer.probe = layer.new_probe()
    output = layer(x)
    output.register_hook(seen.append)
    output.mul_(3.0).sum().backward()
    ((_, delta),) = layer.probe.records
    assert torch.equal(seen[0], torch.full_like(output, 3.0))
    assert torch.equal(delta, seen[0])

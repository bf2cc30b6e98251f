"""Layers that give the second moment of the samples' shares of a gradient together with the gradient."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.masked_twins import DENSE, KINDS, example, layer_of, shares
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.nn import MaskedLayer

BATCHED = [name for name in DENSE if name not in ("vector", "one image")]


def expect(layer: Any, parts: list[Tensor]) -> None:
    zero = torch.zeros_like(layer.master)
    torch.testing.assert_close(layer.master.grad, sum(parts, zero))
    torch.testing.assert_close(layer.moment, sum((part.square() for part in parts), zero))
    assert layer.samples == len(parts)


def moment_layer(name: str) -> tuple[Any, nn.Module, Tensor, Tensor]:
    dense, mask, x = example(name)
    return layer_of(dense, mask, weight_gradient="moment"), dense, mask, x


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", BATCHED)
def test_sums_of_the_samples_own_gradients(name: str) -> None:
    layer, dense, mask, x = moment_layer(name)
    assert layer.moment is None
    layer(x)  # a forward pass records nothing
    assert layer.moment is None
    output = layer(x)
    deltas = torch.randn_like(output)
    output.backward(deltas)
    parts = shares(dense, mask, x, deltas)
    expect(layer, parts)
    layer(x[:1]).backward(deltas[:1])  # another pass of the same step, perhaps of one sample
    expect(layer, [*parts, *parts[:1]])
    layer.gradient_moment.clear()
    layer.master.grad = None
    layer(x).backward(deltas)
    expect(layer, parts)


@pytest.mark.parametrize("name", KINDS)
def test_records_only_what_is_asked_for(name: str) -> None:
    layer, dense, mask, x = moment_layer(name)
    layer.requires_grad_(False)
    layer(x.requires_grad_()).sum().backward()
    with torch.no_grad():
        layer(x[0])  # evaluation takes a single sample
    other = layer_of(dense, mask)
    other(x).sum().backward()
    assert layer.moment is other.moment is None
    assert layer.samples == other.samples == 0


@pytest.mark.parametrize("name", ["vector", "one image"])
def test_needs_a_batch(name: str) -> None:
    layer, _, _, x = moment_layer(name)
    with pytest.raises(ValueError, match="needs a batch"):
        layer(x)


@pytest.mark.parametrize("name", KINDS)
def test_refuses_two_uses_in_one_pass(name: str) -> None:
    layer, _, _, x = moment_layer(name)
    with pytest.raises(RuntimeError, match="used twice in one pass"):
        (layer(x).sum() + layer(x + 1).sum()).backward()
    layer.gradient_moment.clear()
    first, second = layer(x).sum(), layer(x + 1).sum()  # two passes
    first.backward()
    second.backward()
    assert layer.samples == 2 * len(x)


def test_copies_have_recorded_nothing() -> None:
    layer, _, _, x = moment_layer("linear")
    layer(x).sum().backward()
    copied = copy.deepcopy(layer)
    assert isinstance(copied, MaskedLayer)
    assert copied.moment is None
    assert copied.samples == 0
    assert layer.samples == len(x)


def test_older_pickles_have_recorded_nothing() -> None:
    """The moment, the signature and the number of samples were attributes of the layer."""
    layer, _, _, x = moment_layer("linear")
    state = layer.__getstate__()
    del state["gradient_moment"]
    older = sk.MaskedLinear.__new__(sk.MaskedLinear)
    older.__setstate__({**state, "moment": None, "signature": None, "samples": 0})
    older(x).sum().backward()
    assert older.samples == len(x)


@pytest.mark.parametrize("name", KINDS)
def test_autocast_keeps_wide_sums(name: str) -> None:
    dense, mask, x = example(name, torch.float32)
    layer = layer_of(dense, mask, weight_gradient="moment")
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
    deltas = torch.randn_like(output)
    output.backward(deltas)
    parts = shares(dense, mask, x.bfloat16().float(), deltas.float())
    assert layer.moment.dtype == layer.master.grad.dtype == torch.float32
    expect(layer, parts)


@pytest.mark.parametrize("name", KINDS)
def test_compiled_layers_record_too(name: str) -> None:
    layer, dense, mask, x = moment_layer(name)
    output = torch.compile(layer, backend="aot_eager")(x)
    deltas = torch.randn_like(output)
    output.backward(deltas)
    expect(layer, shares(dense, mask, x, deltas))


def armed(dense: Any, mask: Tensor) -> Any:
    kind = sk.SparseLinear if isinstance(dense, nn.Linear) else sk.SparseConv2d
    layer = kind.from_dense(dense, mask)
    layer.probe = layer.new_probe()
    return layer


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", BATCHED)
def test_an_armed_layer_gives_gradient_and_moment(name: str) -> None:
    dense, mask, x = example(name)
    layer, parts = armed(dense, mask), []
    for part in (x, 2 * x[:1]):
        output = layer(part)
        deltas = torch.randn_like(output)
        output.backward(deltas)
        parts += shares(dense, mask, part, deltas)
    gradient, moment, samples = layer.probe.gradient_and_moment()
    zero = torch.zeros_like(dense.weight)
    torch.testing.assert_close(gradient, sum(parts, zero))
    torch.testing.assert_close(moment, sum((part.square() for part in parts), zero))
    assert samples == len(parts)


def _twice(layer: Any, x: Tensor) -> None:
    (layer(x).sum() + layer(x).sum()).backward()


def _alone(layer: Any, x: Tensor) -> None:
    layer(x[0]).sum().backward()


def _never(layer: Any, x: Tensor) -> None:
    layer(x)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (_twice, RuntimeError, "used twice"),
        (_alone, ValueError, "batch"),
        (_never, RuntimeError, "no backward pass"),
    ],
)
def test_an_armed_layer_refuses(name: str, use: Callable, error: type[Exception], message: str) -> None:
    dense, mask, x = example(name)
    layer = armed(dense, mask)
    use(layer, x)
    with pytest.raises(error, match=message):
        layer.probe.gradient_and_moment()

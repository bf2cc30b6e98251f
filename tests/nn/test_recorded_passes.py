"""Armed layers and second moments count the backward passes whose gradients the step uses, and no others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.masked_twins import KINDS, example, layer_of, shares
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sparsekern as sk

STORAGES = ("armed", "moment")
Passes = list[tuple[Tensor, Tensor]]  # input and output gradient of each


def recording(storage: str, name: str) -> tuple[Any, nn.Module, Tensor, Tensor]:
    dense, mask, x = example(name)
    if storage == "moment":
        return layer_of(dense, mask, weight_gradient="moment"), dense, mask, x
    layer = (sk.SparseLinear if name == "linear" else sk.SparseConv2d).from_dense(dense, mask)
    layer.probe = layer.new_probe()
    return layer, dense, mask, x


def recorded(layer: Any) -> tuple[Tensor, int]:
    if layer.probe is None:
        return layer.moment, layer.samples
    gradient, moment, samples = layer.probe.gradient_and_moment()
    torch.testing.assert_close(gradient, layer.probe.dense_gradient())
    return moment, samples


class Step:
    """Backward passes through a layer, each with an input and an output gradient of its own."""

    def __init__(self, layer: Any, x: Tensor) -> None:
        self.layer, self.x = layer, x

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn_like(self.x).requires_grad_()
        output = self.layer(x)
        return x, output, torch.randn_like(output)

    def backward(self) -> tuple[Tensor, Tensor]:
        x, output, delta = self.forward()
        output.backward(delta)
        return x.detach(), delta

    def handed_out(self) -> tuple[Tensor, Tensor]:
        x, output, delta = self.forward()
        torch.autograd.grad(output, self.layer.stored, delta)
        return x.detach(), delta

    def saliency(self) -> None:
        x, output, delta = self.forward()
        torch.autograd.grad(output, x, delta)
        x, output, delta = self.forward()
        output.backward(delta, inputs=[x])

    def zero(self) -> None:
        self.layer.zero_grad(set_to_none=False)


def _saliency_behind(step: Step) -> Passes:
    passes = [step.backward()]
    step.saliency()
    return passes


def _saliency_before(step: Step) -> Passes:
    step.saliency()
    return [step.backward()]


def _saliency_within(step: Step) -> Passes:
    first = step.backward()
    step.saliency()
    return [first, step.backward()]


def _through_one_graph(step: Step) -> Passes:
    x, output, delta = step.forward()
    torch.autograd.grad(output, x, delta + 1, retain_graph=True)
    output.backward(delta, retain_graph=True)
    output.backward(2 * delta)
    return [(x.detach(), delta), (x.detach(), 2 * delta)]


def _set_to_zero(step: Step) -> Passes:
    for _ in range(2):
        step.backward()
    step.zero()
    return [step.backward(), step.backward()]


def _cleared(step: Step) -> Passes:
    step.backward()
    step.layer.zero_grad()
    return [step.backward(), step.backward()]


def _handed_out(step: Step) -> Passes:
    return [step.handed_out(), step.handed_out()]


def _handed_out_beside(step: Step) -> Passes:
    step.handed_out()
    first = step.backward()
    step.handed_out()
    return [first, step.backward()]


def _handed_out_after_zero(step: Step) -> Passes:
    step.backward()
    step.zero()
    return [step.handed_out()]


SCENES = [
    _saliency_behind,
    _saliency_before,
    _saliency_within,
    _through_one_graph,
    _set_to_zero,
    _cleared,
    _handed_out,
    _handed_out_beside,
    _handed_out_after_zero,
]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_the_passes_that_count(scene: Callable[[Step], Passes], storage: str, name: str) -> None:
    layer, dense, mask, x = recording(storage, name)
    parts = [part for h, delta in scene(Step(layer, x)) for part in shares(dense, mask, h, delta)]
    moment, samples = recorded(layer)
    assert samples == len(parts)
    torch.testing.assert_close(moment, sum((part.square() for part in parts), torch.zeros_like(moment)))
    if layer.probe is not None:
        torch.testing.assert_close(layer.probe.dense_gradient(), sum(parts, torch.zeros_like(moment)))


@pytest.mark.parametrize("storage", STORAGES)
def test_passes_for_the_input_alone_record_nothing(storage: str) -> None:
    layer, _, _, x = recording(storage, "linear")
    Step(layer, x).saliency()
    assert layer.moment is None if storage == "moment" else not layer.probe.records


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(RuntimeError, match="used twice in one"):
        yield


def _segment(layer: Any, x: Tensor) -> Tensor:
    return checkpoint(layer, x, use_reentrant=True)  # type: ignore[return-value]


def _nested(layer: Any, x: Tensor) -> Tensor:
    return checkpoint(lambda x: layer(x.sin()) + _segment(layer, x), x, use_reentrant=True)  # type: ignore[return-value]


TWICE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "two segments": lambda layer, x: _segment(layer, x) + _segment(layer, x + 1),
    "one segment": lambda layer, x: checkpoint(lambda x: layer(x) + layer(x + 1), x, use_reentrant=True),  # type: ignore[return-value]
    "in and out": lambda layer, x: _segment(layer, x) + layer(x + 1),
    "nested": _nested,
}


@pytest.mark.parametrize("use", TWICE)
@pytest.mark.parametrize("storage", STORAGES)
def test_reentrant_checkpoints_hide_no_second_use(storage: str, use: str) -> None:
    layer, _, _, x = recording(storage, "linear")
    with refused():
        TWICE[use](layer, x.requires_grad_()).sin().sum().backward()
        recorded(layer)


def test_reentrant_checkpoints_sum_the_gradients_of_all_uses() -> None:
    layer, dense, mask, x = recording("armed", "linear")
    dense.weight.data.mul_(mask)
    for use in TWICE.values():
        layer.probe = layer.new_probe()
        for module in (layer, dense):
            module.zero_grad()
            use(module, x.clone().requires_grad_()).sin().sum().backward()
        torch.testing.assert_close(layer.probe.dense_gradient(), dense.weight.grad)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
def test_checkpoints_are_one_use_a_pass(storage: str, reentrant: bool) -> None:
    layer, dense, mask, x = recording(storage, "linear")
    parts = []
    for factor in (1.0, 2.0):
        h = factor * x
        output: Any = checkpoint(layer, h.clone().requires_grad_(), use_reentrant=reentrant)
        delta = torch.randn_like(output)
        output.backward(delta)
        parts += shares(dense, mask, h, delta)
    moment, samples = recorded(layer)
    assert samples == len(parts)
    torch.testing.assert_close(moment, sum((part.square() for part in parts), torch.zeros_like(moment)))


def test_frozen_layers_record_nothing() -> None:
    layer: Any = sk.SparseLinear(9, 9, sparsity=0.5)
    layer.values.requires_grad_(False)
    layer.probe = layer.new_probe()
    x = torch.randn(4, 9, requires_grad=True)
    layer(x).sin().sum().backward()
    assert not layer.probe.records
    expected = torch.autograd.grad(layer.to_dense()(x).sin().sum(), x)[0]
    torch.testing.assert_close(x.grad, expected)

"""Patterns follow from the gradients that the optimizer uses: other backward passes of a step change nothing, and
activations may work in place."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.trajectories import batches, make
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision import models

import sparsekern as sk

METHODS = ("rigl", "granet", "gse_grabo", "gse_graest", "dpf", "snr", "snr_frozen", "optg")
Extra = Callable[[nn.Module, sk.Sparsifier, Tensor, Tensor], None]


def _nothing(model: nn.Module, optimizer: sk.Sparsifier, x: Tensor, y: Tensor) -> None:
    pass


def _saliency(model: nn.Module, optimizer: sk.Sparsifier, x: Tensor, y: Tensor) -> None:
    x = x.clone().requires_grad_()
    torch.autograd.grad(cross_entropy(model(x), y.roll(1)), x)


def _gradient_norm(model: nn.Module, optimizer: sk.Sparsifier, x: Tensor, y: Tensor) -> None:
    torch.autograd.grad(cross_entropy(model(x), y.roll(1)), list(model.parameters()))


def _discarded(model: nn.Module, optimizer: sk.Sparsifier, x: Tensor, y: Tensor) -> None:
    cross_entropy(model(x), y.roll(1)).backward()
    model.zero_grad(set_to_none=False)


def _discarded_by_the_optimizer(model: nn.Module, optimizer: sk.Sparsifier, x: Tensor, y: Tensor) -> None:
    cross_entropy(model(x), y.roll(1)).backward()
    optimizer.optimizer.zero_grad(set_to_none=False)


def trained(name: str, before: Extra, behind: Extra) -> list[Any]:
    torch.manual_seed(0)
    method = make(name, include_classifier=True) if name == "snr" else make(name)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Conv2d(6, 8, 2), nn.Flatten(), nn.Linear(8, 3)).double()
    model = sk.sparsify(model, method, backend="sparse")
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), method)
    changes = 0
    for step, (x, y) in enumerate(batches("linear", 10)):
        images = nn.functional.pad(x.unflatten(1, (1, 4, 3)), (1, 0))
        optimizer.zero_grad()
        before(model, optimizer, images, y)
        cross_entropy(model(images), y).backward()
        behind(model, optimizer, images, y)
        optimizer.step()
        changes += optimizer.rewired
        if step % 5 == 4:
            optimizer.epoch_end(1.0)
    assert changes
    return [*model.state_dict().values(), *(t for site in optimizer.sites for t in site.tracked.values())]


@pytest.mark.filterwarnings("ignore:.*fewer than three times", "ignore:layer collapse")
@pytest.mark.parametrize("name", METHODS)
def test_other_passes_of_a_step_change_nothing(name: str) -> None:
    expected = trained(name, _nothing, _nothing)
    for before, behind in (
        (_saliency, _nothing),
        (_nothing, _saliency),
        (_nothing, _gradient_norm),
        (_discarded, _saliency),
        (_discarded_by_the_optimizer, _nothing),
    ):
        for got, wanted in zip(trained(name, before, behind), expected, strict=True):
            assert torch.equal(got, wanted), (before.__name__, behind.__name__)


@pytest.mark.filterwarnings("ignore:.*fewer than three times", "ignore:layer collapse")
@pytest.mark.parametrize("name", ["rigl", "gse_grabo", "dpf", "snr"])
def test_activations_in_place(name: str) -> None:
    """squeezenet: rectifiers and dropout in place behind convolutions."""
    outcomes = []
    for inplace in (True, False):
        torch.manual_seed(0)
        method = sk.methods.get(name)(sparsity=0.8, total_steps=4, steps_per_epoch=2, every=1)
        model = sk.sparsify(models.squeezenet1_1(num_classes=3), method)
        for module in model.modules():
            if isinstance(module, nn.ReLU | nn.Dropout):
                module.inplace = inplace
        optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.01), method)
        changes = 0
        for _ in range(3):
            optimizer.zero_grad()
            cross_entropy(model(torch.randn(2, 3, 24, 24)), torch.tensor([1, 2])).backward()
            optimizer.step()
            changes += optimizer.rewired
            if optimizer.steps == 2:
                optimizer.epoch_end(1.0)
        assert changes
        outcomes.append(model.state_dict())
    assert all(torch.equal(tensor, outcomes[1][key]) for key, tensor in outcomes[0].items())

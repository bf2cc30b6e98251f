"""Averages that are lists or dicts of tensors follow the weights, or are refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.trajectories import OPTIMIZERS, batches, make, network, step
from torch import Tensor, nn

import sparsekern as sk

METHODS = ["set", "rigl", "gmp", "dpf"]


class Shadow:
    """As in `torch_ema` and diffusers: a list in the order of the Parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.shadow_params = [p.detach().clone() for p in model.parameters() if p.requires_grad]

    def update(self, model: nn.Module) -> None:
        for own, p in zip(self.shadow_params, (p for p in model.parameters() if p.requires_grad), strict=True):
            own.lerp_(p.detach(), 0.3)

    def tensors(self, model: nn.Module) -> list[Tensor]:
        return self.shadow_params


class Named:
    """As in many tutorials: a dict by names."""

    def __init__(self, model: nn.Module) -> None:
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    def update(self, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            self.shadow[name] = 0.7 * self.shadow[name] + 0.3 * p.detach()

    def tensors(self, model: nn.Module) -> list[Tensor]:
        return [self.shadow[name] for name, p in model.named_parameters() if p.requires_grad]


class Bare(Shadow):
    """Groups of Parameters are in another order than the model has them."""


def built(name: str, **options: Any) -> tuple[nn.Module, sk.Method]:
    torch.manual_seed(0)
    method = make(name, **options)
    return sk.sparsify(network("linear"), method), method


@pytest.mark.filterwarnings("ignore:.*fewer than three times", "ignore:.*without weight decay")
@pytest.mark.parametrize("kind", [Shadow, Named, Bare])
@pytest.mark.parametrize("name", METHODS)
def test_they_are_what_a_copy_of_the_model_is(name: str, kind: Callable[..., Any]) -> None:
    """A copy that follows, averaged by the same rule, has the same weights."""
    model, method = built(name, **({"finetune": 0} if name == "dpf" else {}))
    model[0].bias.requires_grad_(False)
    average, copied, again = kind(model), copy.deepcopy(model), kind(model)
    groups = [p for p in model.parameters() if p.requires_grad]
    optimizer = sk.Sparsifier(
        model, OPTIMIZERS["momentum"](groups[::-1] if kind is Bare else groups), method, followers=[copied, average]
    )
    optimizer.follow(again.shadow_params if kind is not Named else again.shadow)
    optimizer.follow(average)  # twice is once
    changes = 0
    for batch in batches("linear"):
        step(model, optimizer, batch)
        changes += optimizer.rewired
        average.update(model)
        again.update(model)
        with torch.no_grad():
            for own, p in zip(copied.parameters(), model.parameters(), strict=True):
                own.lerp_(p, 0.3)
    assert changes >= 2
    expected = [p.detach() for p in copied.parameters() if p.requires_grad]
    for each in (average, again):
        for got, want in zip(each.tensors(model), expected, strict=True):
            torch.testing.assert_close(got, want)


def test_a_layer_that_settles_keeps_its_average() -> None:
    model, method = built("dpf")
    average, optimizer = Shadow(model), None
    optimizer = sk.Sparsifier(model, OPTIMIZERS["momentum"](model.parameters()), method, followers=[average])
    for batch in batches("linear"):
        step(model, optimizer, batch)
        average.update(model)
    assert optimizer.settled
    assert [t.shape for t in average.shadow_params] == [p.shape for p in model.parameters()]


def test_what_keeps_nothing_is_refused() -> None:
    model, method = built("set")
    inner = OPTIMIZERS["momentum"](model.parameters())
    for stranger in ([torch.zeros(3)], {"x": torch.zeros(3)}, object.__new__(Shadow), list(model.parameters())):
        with pytest.raises(ValueError, match="expected a follower that is a copy of the model, or keeps a tensor"):
            sk.Sparsifier(model, inner, method, followers=[stranger])
    with pytest.raises(ValueError, match="a state dict cannot follow"):
        sk.Sparsifier(model, inner, method, followers=[model.state_dict()])
    average = Shadow(model)
    optimizer = sk.Sparsifier(model, inner, method, followers=[average])
    average.shadow_params = average.shadow_params[:-1]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items() if key.endswith("col")}
    *early, changing = batches("linear")[:6]
    for batch in early:
        step(model, optimizer, batch)
    with pytest.raises(ValueError, match=r"Shadow is to follow .* keeps no tensor of the shape of 0\.values"):
        step(model, optimizer, changing)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())

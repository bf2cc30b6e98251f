"""shrink: channels that are the same number everywhere."""

from typing import Any

import pytest
import torch
from support.channel_nets import EXAMPLE, Functional, conv, randomised, shapes, shrunk, zero
from torch import Tensor, nn
from torch.nn import functional as F

import sparsekern as sk


@pytest.mark.parametrize(("options", "channels"), [({"padding": 1}, 4), ({"padding": 0}, 3), ({"padding": "same"}, 4)])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
def test_constants_beside_zeros_are_not_folded(options: dict, channels: int, mode: str) -> None:
    model = nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3, padding_mode=mode, **options))
    randomised(model)
    zero(model[0], 0, 2, 5)
    with torch.no_grad():
        model[1].bias[[0, 2, 5]] = 10.0  # batch statistics leave it positive
    small = shrunk(model)
    kept = 3 if mode != "zeros" else channels
    assert shapes(small)["0.weight"] == (kept, 3, 3, 3)
    assert shapes(small)["1.running_mean"] == (kept,)
    assert shapes(small)["3.weight"] == (2, kept, 3, 3)
    assert (small[0].out_channels, small[1].num_features, small[3].in_channels) == (kept,) * 3


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_a_layer_of_which_everything_is_dead_keeps_one_channel(bias: float) -> None:
    model = randomised(nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(180, 3)))
    zero(model[2], *range(5), bias=bias)
    small = shrunk(model)
    assert shapes(small)["0.weight"] == (1, 3, 3, 3)
    assert shapes(small)["2.weight"] == (1, 1, 3, 3)
    assert shapes(small)["5.weight"] == (3, 36)


def test_constants_are_none_behind_a_border_of_zeros() -> None:
    for padding, channels in ((1, 5), (0, 1)):
        model = nn.Sequential(conv(3, 4), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=padding), nn.ReLU(), conv(5, 2))
        zero(randomised(model)[0], *range(4), bias=1.0)
        small = shrunk(model)
        assert shapes(small)["0.weight"] == (1, 3, 3, 3)
        assert shapes(small)["2.weight"] == (channels, 1, 3, 3)


def test_batch_norm_of_the_batch_makes_of_a_constant_its_shift() -> None:
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 2, 1))
    zero(randomised(model)[0], 1, 2, bias=5.0)
    small = shrunk(model)
    assert shapes(small)["0.weight"] == (2, 3, 3, 3)
    x = torch.randn(*EXAMPLE, dtype=torch.float64)
    torch.testing.assert_close(small.train()(x), model.train()(x))


@pytest.mark.parametrize(("second", "channels"), [(1.0, 3), (2.0, 4)])
def test_a_layer_used_twice_takes_over_only_what_it_reads_both_times(second: float, channels: int) -> None:
    def twice(self: Any, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.b(F.relu(self.a(x)))))).flatten(1))

    model = Functional(twice, a=conv(3, 4), b=nn.Conv2d(4, 4, 1), head=nn.Linear(144, 2))
    zero(randomised(model).a, 1, bias=1.0)
    zero(model.b, 1, bias=second)
    assert shapes(shrunk(model))["b.weight"] == (channels, channels, 1, 1)


def test_activations_in_place_are_seen_by_all_readers() -> None:
    def overwritten(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(torch.cat([F.relu(x, inplace=True), self.b(x)], 1))

    model = Functional(overwritten, a=conv(3, 4), b=nn.Conv2d(4, 4, 1), c=nn.Conv2d(8, 2, 1))
    zero(randomised(model).a, 1, bias=-1.0)
    shrunk(model)


def test_the_example_is_not_overwritten() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), conv(3, 4), nn.ReLU(inplace=True), conv(4, 2)).double()
    x = torch.randn(*EXAMPLE, dtype=torch.float64)
    before = x.clone()
    zero(model[1], 1, bias=-1.0)
    assert sk.shrink(model, x)[1].out_channels == 3
    assert torch.equal(x, before)


def test_tiny_constants_take_over_nothing() -> None:
    """What they would have to be multiplied by is huge."""

    def both(self: Any, x: Tensor) -> Tensor:
        return self.c(torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1))

    model = Functional(both, a=nn.Linear(5, 1), b=nn.Linear(5, 3), c=nn.Linear(4, 2, bias=False))
    randomised(model, 8, 5)
    zero(model.a, 0, bias=1e-30)  # stays as its layer's only unit
    zero(model.b, 0, 2, bias=3.0)
    small = shrunk(model, 2, 5)
    assert [small.a.out_features, small.b.out_features] == [1, 2]
    assert float(small.c.weight.detach().abs().max()) < 10

"""Several methods on one model: a Sparsifier for each, with one optimizer or with several."""

import copy
from typing import Any

import pytest
import torch
from support.trajectories import EPOCH, batches, make, network
from torch import nn
from torch.nn.functional import cross_entropy

import sparsekern as sk

SGD = {"lr": 0.05, "momentum": 0.9}


def two(shared: bool, first: str = "set", second: str = "dpf", build: Any = None) -> tuple[nn.Module, list[Any]]:
    """Conv2d and Linear: `first` drives the first two layers, `second` the last one."""
    torch.manual_seed(3)
    one, other = make(first), make(second)
    model = sk.sparsify(network("linear"), one, overrides={"4": other})
    build = build or (lambda p: torch.optim.SGD(p, **SGD))
    generators = [torch.Generator().manual_seed(i) for i in (1, 2)]
    if shared:
        inner = sk.Sparsifier(model, build(model.parameters()), one, generator=generators[0])
        return model, [sk.Sparsifier(model, inner, other, generator=generators[1])]
    last = [p for name, p in model.named_parameters() if name.startswith("4")]
    rest = [p for name, p in model.named_parameters() if not name.startswith("4")]
    return model, [
        sk.Sparsifier(model, build(rest), one, generator=generators[0]),
        sk.Sparsifier(model, build(last), other, generator=generators[1]),
    ]


def train(model: nn.Module, optimizers: list, data: list) -> None:
    for t, (x, y) in enumerate(data):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if (t + 1) % EPOCH == 0:
            for optimizer in optimizers:
                optimizer.epoch_end(loss.item())


@pytest.mark.parametrize(("first", "second"), [("set", "dpf"), ("gse_grabo", "snr"), ("gmp", "granet")])
def test_two_methods_with_one_optimizer_and_with_two(first: str, second: str) -> None:
    """They learn the same; each drives the layers that sparsify made for it."""
    runs = []
    for shared in (True, False):
        model, optimizers = two(shared, first, second)
        train(model, optimizers, batches("linear"))
        runs.append(model.state_dict())
        rows = [row["name"] for optimizer in optimizers for row in optimizer.report().rows]
        assert sorted(rows) == ["0", "2", "4"]
        assert [site.name for site in optimizers[-1].sites] == ["4"]
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


@pytest.mark.parametrize("names", [("set", "dpf"), ("rigl", "snr"), ("gmp", "gse_random"), ("snr_frozen", "rigl")])
def test_two_methods_resume_bit_for_bit(names: tuple[str, str]) -> None:
    build = lambda p: torch.optim.Adam(p, lr=0.01)  # noqa: E731
    data = batches("linear")
    model, [optimizer] = two(True, *names, build)
    train(model, [optimizer], data[:10])
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, [optimizer], data[10:])
    resumed, [continuation] = two(True, *names, build)
    resumed.load_state_dict(saved[0])
    continuation.load_state_dict(saved[1])
    train(resumed, [continuation], data[10:])
    first, second = model.state_dict(), resumed.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert str(optimizer.report()) == str(continuation.report())
    with pytest.raises(ValueError, match=f"expected the state of method {names[0]}, got {names[1]} \\+ {names[0]}"):
        sk.Sparsifier(resumed, build(resumed.parameters()), make(names[0])).load_state_dict(saved[1])


@pytest.mark.parametrize("names", [("rigl", "set"), ("set", "rigl")])
def test_a_change_in_place_of_the_step_is_that_of_the_optimizer(names: tuple[str, str]) -> None:
    model, [optimizer] = two(True, *names)
    data = batches("linear")
    for t, batch in enumerate(data[:7]):
        before = model.state_dict()["0.bias"].clone()
        train(model, [optimizer], [batch])
        assert torch.equal(before, model.state_dict()["0.bias"]) == (t == 5)


def test_sparsifiers_that_overlap_are_refused() -> None:
    method = make("set", share="uniform")
    model = sk.sparsify(network("linear"), method)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    first = sk.Sparsifier(model, optimizer, method)
    with pytest.raises(ValueError, match="the Sparsifier inside this one drives 0, 2, 4 already"):
        sk.Sparsifier(model, first, method)
    second = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), **SGD), method, layers="4")
    with pytest.raises(RuntimeError, match="another Sparsifier, of set, was made for 4 since"):
        train(model, [first], batches("linear")[:1])
    train(model, [second], batches("linear"))
    del second
    train(model, [first], batches("linear")[:1])  # nobody else is left
    whole = sk.Sparsifier(model, optimizer, method, layers=["[02]", "4"])
    assert [site.name for site in whole.sites] == ["0", "2", "4"]
    with pytest.raises(ValueError, match="layers: '5' matches none of the layers 0, 2, 4"):
        sk.Sparsifier(model, optimizer, method, layers="5")


def test_which_method_is_meant() -> None:
    one, other = make("set"), make("set", every=2)
    model = sk.sparsify(network("linear"), one, overrides={"4": other, "0": make("rigl")})
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    with pytest.raises(ValueError, match="the model and '4' have methods called set: say which layers"):
        sk.Sparsifier(model, optimizer, one)
    with pytest.raises(ValueError, match="made for rigl, set, none for dsr: say which ones it drives"):
        sk.Sparsifier(model, optimizer, make("dsr"))
    assert [site.name for site in sk.Sparsifier(model, optimizer, other, layers=["4"]).sites] == ["4"]
    assert [site.name for site in sk.Sparsifier(model, optimizer, make("rigl")).sites] == ["0"]
    model = sk.sparsify(network("linear"), make("lottery"), overrides={"4": one})
    with pytest.raises(ValueError, match="lottery returns the whole model to an earlier step"):
        sk.Sparsifier(model, torch.optim.SGD(model.parameters(), **SGD), make("lottery"))

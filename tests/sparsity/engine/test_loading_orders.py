"""Resumed runs: the state of the model comes before the Sparsifier is built or after, as trainers have it."""

import copy
from typing import Any

import pytest
import torch
from support.trajectories import OPTIMIZERS, SPARSE, STEPS, batches, make, network, step
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import sparsekern as sk

BUILD = OPTIMIZERS["adamw-fused"]
SAVED = (7, 16)


def sparse(name: str, seed: int) -> tuple[nn.Module, sk.Method, dict[str, Any]]:
    torch.manual_seed(seed)
    method, data = make(name), {"batches": batches("linear", 4), "loss": nn.functional.cross_entropy}
    return sk.sparsify(network("linear"), method, **data), method, data


def resumed(name: str, order: str, saved: tuple[Any, Any]) -> tuple[nn.Module, sk.Sparsifier]:
    model, method, data = sparse(name, 1)
    if order == "the model first":  # Lightning
        model.load_state_dict(saved[0])
    optimizer = sk.Sparsifier(model, BUILD(model.parameters()), method, **data)
    if order == "the Sparsifier first":
        model.load_state_dict(saved[0])
    if order == "round trips":  # transformers' Trainer: Accelerate loads what it has just saved, to move it
        optimizer.load_state_dict(optimizer.state_dict())
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.zero_grad()
    optimizer.load_state_dict(saved[1])
    return model, optimizer


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in (key, *leaves(value[key]))]
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in leaves(part)]
    return [value.tolist() if isinstance(value, Tensor) else value]


def held(model: nn.Module, optimizer: sk.Sparsifier) -> list[Any]:
    report = sk.memory_report(model, optimizer)
    rooms = [(site.name, site.active.capacity, type(site), site.module.kernel) for site in optimizer.sites]
    return [rooms, [{k: v for k, v in row.items() if "grad" not in k} for row in report.rows]]


@pytest.mark.filterwarnings("ignore:.*(collapse|fewer than three|without weight decay|fixed before)")
@pytest.mark.parametrize("name", SPARSE)
def test_goes_on_bit_for_bit_whatever_is_loaded_first(name: str) -> None:
    model, method, data = sparse(name, 0)
    optimizer, saves = sk.Sparsifier(model, BUILD(model.parameters()), method, **data), []
    for number, batch in enumerate(batches("linear")):
        if number in SAVED:
            saves.append((copy.deepcopy((model.state_dict(), optimizer.state_dict())), held(model, optimizer)))
        step(model, optimizer, batch)
    expected = leaves([model.state_dict(), optimizer.state_dict()])
    for number, (saved, holding) in zip(SAVED, saves, strict=True):
        for order in ("the model first", "the Sparsifier first", "round trips"):
            again, resuming = resumed(name, order, copy.deepcopy(saved))
            assert held(again, resuming) == holding, order
            for batch in batches("linear")[number:STEPS]:
                step(again, resuming, batch)
            assert leaves([again.state_dict(), resuming.state_dict()]) == expected, (order, number)


@pytest.mark.filterwarnings("ignore:.*(collapse|fewer than three|without weight decay|fixed before)")
@pytest.mark.parametrize("name", SPARSE)
def test_averages_go_on_whenever_they_are_loaded(name: str) -> None:
    """Followers from the start, or once everything is loaded, as Lightning has them; loaded in any order."""
    torch.manual_seed(0)

    def start(seed: int, follows: bool) -> tuple[nn.Module, sk.Sparsifier, AveragedModel]:
        model, method, data = sparse(name, seed)
        average = AveragedModel(model)
        optimizer = sk.Sparsifier(model, BUILD(model.parameters()), method, **data)
        if follows:
            average.module.load_state_dict(model.state_dict())  # the method may have begun with another pattern
            optimizer.follow(average)
        return model, optimizer, average

    def go(run: tuple[nn.Module, sk.Sparsifier, AveragedModel], first: int, last: int) -> list[Any]:
        model, optimizer, average = run
        for batch in batches("linear")[first:last]:
            step(model, optimizer, batch)
            average.update_parameters(model)
        return leaves([each.state_dict() for each in run])

    whole, (middle, *_) = start(0, True), SAVED
    go(whole, 0, middle)
    saved = [copy.deepcopy(each.state_dict()) for each in whole]
    expected = go(whole, middle, STEPS)
    for order in ((0, 1, 2), (0, 2, 1), (2, 0, 1)):
        for follows in (True, False):
            run = start(1, follows)
            for i in order:
                run[i].load_state_dict(copy.deepcopy(saved[i]))
            run[1].follow(run[2])
            assert go(run, middle, STEPS) == expected, (order, follows)
    model, method, data = sparse(name, 1)  # Lightning: the average follows before the Sparsifier's state is there
    average = AveragedModel(model)
    for each, state in ((model, saved[0]), (average, saved[2])):
        each.load_state_dict(copy.deepcopy(state))
    optimizer = sk.Sparsifier(model, BUILD(model.parameters()), method, **data)
    optimizer.follow(average)
    optimizer.load_state_dict(copy.deepcopy(saved[1]))
    assert go((model, optimizer, average), middle, STEPS) == expected


def test_the_state_of_another_pattern_is_refused() -> None:
    (model, method, data), (other, *_) = sparse("rigl", 0), sparse("rigl", 1)
    optimizer, again = (sk.Sparsifier(each, BUILD(each.parameters()), method, **data) for each in (model, other))
    with pytest.raises(ValueError, match="another pattern than the state is of: load the state of the model before"):
        again.load_state_dict(optimizer.state_dict())
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("0.")}
    other.load_state_dict(state, strict=False)
    with pytest.raises(ValueError, match="0 has another pattern"):
        again.load_state_dict(optimizer.state_dict())
    other.load_state_dict(model.state_dict())
    again.load_state_dict(optimizer.state_dict())

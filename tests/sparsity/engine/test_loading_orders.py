"""Resumed runs: the state of the model comes before the Sparsifier is built or after, as trainers have it."""

import copy
from typing import Any

import pytest
import torch
from support.trajectories import OPTIMIZERS, SPARSE, STEPS, batches, make, network, step
from torch import Tensor, nn

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

"""A run that goes back to what it was earlier, in the same process, goes on as it did then; or says that it cannot."""

import copy
from typing import Any

import pytest
import torch
from support.trajectories import OPTIMIZERS, SPARSE, STEPS, batches, make, network, step
from torch import nn

import sparsekern as sk

SETTLING = ("dpf", "magnitude_after")


def sparse(name: str) -> tuple[nn.Module, sk.Sparsifier]:
    torch.manual_seed(0)
    method, data = make(name), {"batches": batches("linear", 4), "loss": nn.functional.cross_entropy}
    model = sk.sparsify(network("linear"), method, **data)
    return model, sk.Sparsifier(model, OPTIMIZERS["adamw-fused"](model.parameters()), method, **data)


def states(model: nn.Module, optimizer: sk.Sparsifier) -> list[Any]:
    return copy.deepcopy([model.state_dict(), optimizer.state_dict()])


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in (key, *leaves(value[key]))]
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in leaves(part)]
    return [value.tolist() if isinstance(value, torch.Tensor) else value]


@pytest.mark.filterwarnings("ignore:.*(collapse|fewer than three|without weight decay|fixed before)")
@pytest.mark.parametrize("name", SPARSE)
def test_it_goes_on_bit_for_bit(name: str) -> None:
    model, optimizer = sparse(name)
    saved = []
    for number, batch in enumerate(batches("linear")):
        if number in (4, 11):
            saved.append(states(model, optimizer))
        step(model, optimizer, batch)
    expected = leaves(states(model, optimizer))
    model, optimizer = sparse(name)
    for batch in batches("linear")[:14]:
        step(model, optimizer, batch)
    for (weights, rest), begin in zip(saved, (4, 11), strict=True):
        if optimizer.settled and not rest["settled"]:
            break
        model.load_state_dict(weights)
        optimizer.load_state_dict(rest)
        for batch in batches("linear")[begin:STEPS]:
            step(model, optimizer, batch)
        assert leaves(states(model, optimizer)) == expected, begin

"""`min_per_layer`: no layer falls below it, at any step, by any method that takes it; the number stays exact."""

from inspect import signature
from typing import Any

import pytest
import torch
from support import trajectories
from torch import nn

import sparsekern as sk
from sparsekern.sparsity.parts.views import at_least

MINIMUM = 7  # weights; of filters and channels one
TAKING = [name for name in sk.methods.names() if "min_per_layer" in signature(sk.methods.get(name)).parameters]


def test_methods_that_take_none() -> None:
    assert {*sk.methods.names()} - {*TAKING} == {"dense", "snr", "snr_frozen", "str"}  # nothing is given them to share


@pytest.mark.parametrize("name", TAKING)
def test_every_layer_keeps_its_minimum(name: str) -> None:
    torch.manual_seed(0)
    model = trajectories.network("linear")
    weak = next(layer for layer in list(model.modules())[::-1] if isinstance(layer, nn.Linear))
    nn.init.normal_(weak.weight, std=1e-9)
    data = trajectories.batches("linear")
    scored: dict[str, Any] = {"batches": data[:4], "loss": nn.functional.cross_entropy}
    by_weight = trajectories.make(name).view.units((10, 10)) == 100 and trajectories.make(name).start.unit == "weight"
    minimum = MINIMUM if by_weight else 1
    method = trajectories.make(name, sparsity=0.8, min_per_layer=minimum)
    sparse = sk.sparsify(model, method, **scored)
    inner = torch.optim.SGD(sparse.parameters(), lr=0.05, momentum=0.9)
    optimizer = sk.Sparsifier(sparse, inner, method, **scored)
    for x, y in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(sparse(x), y).backward()
        optimizer.step()
        assert all(site.nnz >= min(minimum, site.size) for site in optimizer.sites)
    if by_weight:
        size = sum(site.size for site in optimizer.sites)
        assert sum(site.nnz for site in optimizer.sites) == size - int(0.8 * size + 1e-9)


def test_layers_that_have_more_give_some() -> None:
    assert at_least(5, [0, 9, 40, 2], [3, 10, 50, 60]) == [3, 8, 35, 5]
    assert at_least(0, [0, 9], [3, 10]) == [0, 9]


def test_random_patterns_with_small_layers() -> None:
    model = nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 1), nn.Linear(1, 2))
    layers: Any = list(sk.sparsify(model, sk.methods.random(0.97, min_per_layer=1)).children())
    assert all(layer.topology.nnz for layer in layers)
    assert sum(layer.topology.nnz for layer in layers) == 3662 - int(0.97 * 3662)

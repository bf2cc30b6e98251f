"""Dynamic baselines with little to choose from: equal scores, tiny layers, no sparsity, unused or emptied layers."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.trajectories import chosen, expected
from torch import nn
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.sparsity.parts import views

STEPS, EPOCH = 12, 3
OPTIONS: dict[str, dict[str, Any]] = {
    "set": {"every": 3, "share": "uniform"},
    "deepr": {"share": "uniform"},
    "dsr": {"every": 1},
    "snfs": {},
    "rigl": {"every": 3, "share": "uniform"},
    "granet": {"every": 3, "share": "uniform"},
    "gmp": {},
    "dnw": {},
    "sfp": {},
}


def start(name: str, dense: nn.Module, sparsity: float, **options: Any) -> tuple[nn.Module, sk.Sparsifier]:
    torch.manual_seed(0)
    options = {**OPTIONS[name], **options}
    method = sk.methods.get(name)(sparsity=sparsity, total_steps=STEPS, steps_per_epoch=EPOCH, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sk.sparsify(dense, method)
        return model, sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), method)


def run(model: nn.Module, optimizer: sk.Sparsifier, inputs: int, classes: int) -> list[tuple[int, int]]:
    """How many were to be active and how many were, after every step."""
    counts = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        cross_entropy(model(torch.randn(8, inputs)), torch.arange(8) % classes).backward()
        optimizer.step()
        counts.append((expected(optimizer), chosen(optimizer)))
    return counts


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


@pytest.mark.parametrize("name", OPTIONS)
def test_equal_weights_are_chosen_from_exactly_and_alike(name: str) -> None:
    masks = []
    for _ in range(2):
        dense = plain()
        for parameter in dense.parameters():
            nn.init.constant_(parameter, 0.5)
        model, optimizer = start(name, dense, 0.6)
        assert all(wanted == found for wanted, found in run(model, optimizer, 10, 4))
        masks.append(torch.cat([site.active.mask().flatten() for site in optimizer.sites]))
    assert torch.equal(*masks)


@pytest.mark.filterwarnings("ignore:layer collapse")
@pytest.mark.parametrize("sparsity", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("name", OPTIONS)
def test_tiny_layers(name: str, sparsity: float) -> None:
    """Layers that have fewer weights than they could keep, exchange or grow."""
    dense = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1), nn.Linear(1, 4), nn.Linear(4, 2))
    model, optimizer = start(name, dense, sparsity)
    assert all(wanted == found for wanted, found in run(model, optimizer, 3, 2))
    if not sparsity:
        assert all(site.nnz == site.size for site in optimizer.sites)


@pytest.mark.parametrize("name", OPTIONS)
def test_layer_collapse_warns(name: str) -> None:
    dense = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 1), nn.Linear(1, 50), nn.Linear(50, 50))
    model, optimizer = start(name, dense, 0.99)
    with pytest.warns(UserWarning, match="layer collapse: [0-3] has no weight left"):
        run(model, optimizer, 50, 50)


@pytest.mark.parametrize("name", ["dnw", "sfp"])
def test_a_minimum_larger_than_a_layer_keeps_all_of_it(name: str) -> None:
    dense = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 1), nn.Linear(1, 3))
    model, optimizer = start(name, dense, 0.6, min_per_layer=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(model, optimizer, 20, 3)
    assert [site.nnz for site in optimizer.sites[1:]] == ([12, 3] if name == "dnw" else [30])


class Branches(nn.Module):
    """Two linear layers of which one step uses the first, the next the second."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(10, 12), nn.Linear(10, 12), nn.Linear(12, 4)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.last((self.left if self.calls % 2 else self.right)(x).relu())


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("name", OPTIONS)
def test_layers_that_a_step_does_not_use(name: str, set_to_none: bool) -> None:
    model, optimizer = start(name, Branches(), 0.6)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none)
        cross_entropy(model(torch.randn(8, 10)), torch.arange(8) % 4).backward()
        optimizer.step()
        if name != "granet":  # which prunes the layers that it has gradients of
            assert chosen(optimizer) == expected(optimizer)
    assert chosen(optimizer) < sum(site.size for site in optimizer.sites) / 2


@pytest.mark.parametrize("minimum", [0, 5])
def test_layer_collapse_warns_and_can_be_prevented(minimum: int) -> None:
    method = sk.methods.gmp(sparsity=0.9, total_steps=8, every=2)
    method = replace(method, view=replace(views.network, min_per_layer=minimum))
    dense = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    model = sk.sparsify(dense, method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.0), method)
    with torch.no_grad():
        optimizer.sites[0].module.values.mul_(1e-6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(8):
            optimizer.step()
    assert optimizer.sites[0].nnz == minimum
    assert sum(site.nnz for site in optimizer.sites) == 40
    assert any("layer collapse: 0 " in str(w.message) for w in caught) == (minimum == 0)


def test_sparsity_zero_and_tiny_layers_run() -> None:
    for name in ("set", "rigl", "gse_grabo", "gmp"):
        method = sk.methods.get(name)(sparsity=0.0, total_steps=30, every=2)
        model = sk.sparsify(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)), method)
        optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
            assert [site.nnz for site in optimizer.sites] == [6, 2]

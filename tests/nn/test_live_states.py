"""A state dict that is kept while training goes on holds the model as it is now, as that of a dense model does."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.nn import live_states

METHODS: dict[str, dict[str, Any]] = {
    "random": {},
    "set": {"every": 2, "steps_per_epoch": 4},
    "rigl": {"every": 2},
    "gse_grabo": {"every": 2},
    "gmp": {"every": 2},
    "granet": {"every": 2},
    "dpf": {"every": 2, "steps_per_epoch": 4},
}
SETTLING: dict[str, dict[str, Any]] = {"dpf": {"finetune": 2, "steps_per_epoch": 4}, "oneshot_ft": {}, "lottery": {}}


def build(name: str, **options: Any) -> tuple[nn.Module, sk.Sparsifier | torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    schedule = {} if name == "random" else {"total_steps": 24}
    method = sk.methods.get(name)(sparsity=0.6, **schedule, **(options or METHODS.get(name, {})))
    model = sk.sparsify(nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 4)), method)
    return model, sk.Sparsifier(model, torch.optim.Adam(model.parameters(), 0.02), method), method


def step(model: nn.Module, optimizer: Any, x: Tensor) -> None:
    optimizer.zero_grad()
    cross_entropy(model(x), torch.arange(len(x)) % 4).backward()
    optimizer.step()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", METHODS)
def test_the_entries_are_those_of_the_model_now(name: str) -> None:
    model, optimizer, method = build(name)
    x = torch.randn(20, 9)
    kept: list[dict[str, Tensor]] = []
    for i in range(24):
        if i in (0, 5, 11):
            kept.append(model.state_dict())
        step(model, optimizer, x)
    expected = model(x).detach()
    for state in kept:
        fresh = sk.sparsify(nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 4)), method)
        fresh.load_state_dict(copy.deepcopy(state))  # what a file would hold
        torch.testing.assert_close(fresh(x), expected)
    model.load_state_dict(kept[-1])
    torch.testing.assert_close(model(x), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SETTLING)
def test_a_dense_weight_that_is_no_more_is_refused(name: str) -> None:
    model, optimizer, _ = build(name, **SETTLING[name])
    state, copied = model.state_dict(), copy.deepcopy(model.state_dict())
    for _ in range(24):
        step(model, optimizer, torch.randn(20, 9))
    site = optimizer.sites[0]
    assert isinstance(site.module, sk.SparseLinear)
    for target in (model, build(name, **SETTLING[name])[0]):
        target.load_state_dict(copied)
        with pytest.raises(RuntimeError, match=r"come to hold their nonzeros only since: copy.deepcopy"):
            target.load_state_dict(state)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["set", "gmp", "dpf"])
def test_a_copy_stays_what_it_was(name: str) -> None:
    model, optimizer, _ = build(name)
    x = torch.randn(20, 9)
    for _ in range(5):
        step(model, optimizer, x)
    before, copied = model(x).detach(), copy.deepcopy(model.state_dict())
    alive = model.state_dict()
    for _ in range(9):
        step(model, optimizer, x)
    now = model(x).detach()
    model.load_state_dict(copied)
    torch.testing.assert_close(model(x).detach(), before)
    torch.testing.assert_close(alive["0.row_ptr"], model.state_dict()["0.row_ptr"])
    assert not torch.allclose(before, now)


def test_weights_that_a_state_dict_changes_in_place_reach_the_model() -> None:
    """Averages that blend a state dict in place go on doing so after a change of pattern."""
    model, optimizer, _ = build("gmp")
    state = model.state_dict()
    for _ in range(24):
        step(model, optimizer, torch.randn(20, 9))
    assert state["0.values"].shape == model[0].values.shape == (44,)
    state["0.values"].fill_(2.0)
    assert model[0].values.detach().unique().tolist() == [2.0]


def test_entries_go_with_their_state_dict() -> None:
    layer = sk.SparseLinear(4, 3, sparsity=0.5)
    for _ in range(5):
        layer.state_dict()
    assert len(live_states._noted[layer]) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["set", "gmp", "rigl", "dpf"])
def test_a_state_that_shares_no_memory_any_more_stays_as_it_is(name: str) -> None:
    """The initial weights are kept, the model goes to another device or dtype, and returns to them later."""
    model, optimizer, method = build(name)
    initial, x = model.state_dict(), torch.randn(20, 9)
    before = model(x).detach()
    model.double()
    for _ in range(24):
        step(model, optimizer, x.double())
    fresh = sk.sparsify(nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 4)), method)
    fresh.load_state_dict(initial)
    torch.testing.assert_close(fresh(x).detach(), before)

"""What `torch.optim.Optimizer` promises, kept by the Sparsifier: hooks, defaults, groups and state."""

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from support.networks import network, start, train
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

import sparsekern as sk
from sparsekern import private_torch
from sparsekern.sparsity.sites.storage import Master


def test_step_hooks_are_called_once_a_step_with_the_sparsifier() -> None:
    model, optimizer, x, y = start("rigl")
    called: list[tuple[str, Any, int]] = []
    optimizer.register_step_pre_hook(lambda own, args, kwargs: called.append(("pre", own, own.steps)))
    handle = optimizer.register_step_post_hook(lambda own, args, kwargs: called.append(("post", own, own.steps)))
    train(model, optimizer, x, y, 2)
    assert [(name, steps) for name, _, steps in called] == [("pre", 0), ("post", 1), ("pre", 1), ("post", 2)]
    assert all(own is optimizer for _, own, _ in called)
    handle.remove()
    train(model, optimizer, x, y, 1)
    assert [name for name, *_ in called[4:]] == ["pre"]


def test_a_step_hook_may_change_what_step_is_called_with() -> None:
    model, optimizer, x, y = start("rigl")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.register_step_pre_hook(lambda own, args, kwargs: ((own, closure), {}))
    assert optimizer.step() > 0
    assert optimizer.steps == 1


def test_hooks_of_the_optimizer_inside_are_called_when_it_steps() -> None:
    model, optimizer, x, y = start("rigl")  # a change takes the step's place
    steps = []
    optimizer.optimizer.register_step_post_hook(lambda own, args, kwargs: steps.append(own))
    changed = 0
    for _ in range(8):
        train(model, optimizer, x, y, 1)
        changed += optimizer.rewired
    assert changed > 0
    assert len(steps) == 8 - changed
    assert all(own is optimizer.optimizer for own in steps)


def test_hooks_of_state_dicts() -> None:
    model, optimizer, x, y = start()
    train(model, optimizer, x, y, 3)
    called = []
    optimizer.register_state_dict_pre_hook(lambda own: called.append("save pre"))
    optimizer.register_state_dict_post_hook(lambda own, state: {**state, "note": own.steps})
    state = optimizer.state_dict()
    assert state["note"] == 3
    optimizer.register_load_state_dict_pre_hook(lambda own, state: {**state, "losses": [float(state.pop("note"))]})
    optimizer.register_load_state_dict_post_hook(lambda own: called.append("load post"))
    optimizer.load_state_dict(state)
    assert optimizer.losses == [3.0]
    assert state["note"] == 3
    assert called == ["save pre", "load post"]


def test_defaults_groups_and_state_are_those_of_the_optimizer() -> None:
    model, optimizer, x, y = start()
    inner = optimizer.optimizer
    train(model, optimizer, x, y, 2)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.defaults is inner.defaults
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    assert len(inner.param_groups) == 1
    assert "lr" in optimizer.defaults
    inner.load_state_dict(inner.state_dict())  # which replaces them
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    before = inner.state
    optimizer.state = before.copy()
    assert inner.state is optimizer.state is not before
    optimizer.param_groups = list(inner.param_groups)
    assert inner.param_groups is optimizer.param_groups
    other = torch.nn.Parameter(torch.zeros(2))
    optimizer.add_param_group({"params": [other], "lr": 0.5})
    assert inner.param_groups[1]["lr"] == 0.5
    train(model, optimizer, x, y, 3)


def test_a_loaded_optimizer_trains_on_with_its_state() -> None:
    model, optimizer, x, y = start()
    train(model, optimizer, x, y, 3)
    copied, its = copy.deepcopy((model, optimizer))
    its.optimizer.load_state_dict(copy.deepcopy(its.optimizer.state_dict()))
    for pair in ((model, optimizer), (copied, its)):
        train(*pair, x, y, 6)
    assert all(torch.equal(copied.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("of", ["optimizer", "sparsifier"])
def test_schedulers_of_either(of: str) -> None:
    method = sk.methods.rigl(sparsity=0.8, total_steps=60, every=3)
    torch.manual_seed(0)
    model = sk.sparsify(network(), method)
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if of == "optimizer":
        scheduler = CosineAnnealingLR(inner, 10)
        optimizer = sk.Sparsifier(model, inner, method)
    else:
        optimizer = sk.Sparsifier(model, inner, method)
        scheduler = CosineAnnealingLR(optimizer, 10)
    rates = []
    x, y = torch.randn(16, 30), torch.randint(5, (16,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that the scheduler has stepped before the optimizer
        for _ in range(10):
            train(model, optimizer, x, y, 1)
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
    assert optimizer.steps == 10
    assert rates == sorted(rates, reverse=True)
    assert rates[4] == pytest.approx(0.05)
    assert rates[-1] == pytest.approx(0.0)


def test_copies_leave_hooks_out_as_those_of_optimizers_do() -> None:
    model, optimizer, x, y = start()
    StepLR(optimizer, 5)
    optimizer.register_step_pre_hook(lambda own, args, kwargs: None)  # can't be pickled
    train(model, optimizer, x, y, 2)
    for copied, its in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):
        assert its.steps == 2
        assert not private_torch.hooks(its, "step_pre")
        assert its.defaults is its.optimizer.defaults
        called = []
        its.register_step_post_hook(lambda own, args, kwargs, called=called: called.append(own))
        train(copied, its, x, y, 1)
        assert len(called) == 1
        assert called[0] is its


def test_gradient_scalers_unscale_the_gradients_themselves() -> None:
    assert getattr(sk.Sparsifier, private_torch.AMP_SCALING) is False


def test_storages_and_orders_by_name() -> None:
    schedule = sk.sparsity.schedules.constant(0.5)
    for name in ("nonzeros", "master", "stashed", "dense"):
        method = sk.Method("own", schedule, storage=name)
        assert method.storage == name
        assert sk.Method("own", schedule, storage=method.storage) == method
        assert copy.deepcopy(method).storage == pickle.loads(pickle.dumps(method)).storage == method.storage
    assert method != sk.Method("own", schedule)
    assert Master(until=5) == "master"
    assert Master(until=5) == Master(until=5) != Master()
    orders = {"nonzeros": "step", "master": "before", "stashed": "before"}
    assert {name: sk.Method("own", schedule, storage=name).order for name in orders} == orders  # type: ignore[arg-type]
    assert sk.methods.rigl(0.5, 100).order == "replace"
    with pytest.warns(DeprecationWarning, match='called "stashed" now'):
        assert sk.Method("own", schedule, storage="parked").storage == "stashed"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="storage must be one of nonzeros, master, stashed, dense, got 'sparse'"):
        sk.Method("own", schedule, storage="sparse")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "old", "new"), [("snr_frozen", "parked", "stashed"), ("rewind", "origin", "snapshot")]
)
def test_states_with_keys_of_version_0_1_load(name: str, old: str, new: str) -> None:
    torch.manual_seed(0)
    options = {"step": 1} if name == "rewind" else {}
    method = sk.methods.get(name)(sparsity=0.5, total_steps=24, steps_per_epoch=4, **options)
    model = sk.sparsify(network(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method)
    x, y = torch.randn(16, 30), torch.randint(5, (16,))
    for _ in range(3):
        train(model, optimizer, x, y, 4)
        optimizer.epoch_end(1.0)
    state = optimizer.state_dict()
    renamed = copy.deepcopy(state)
    for part in (renamed, *renamed["sites"].values()):
        if new in part:
            part[old] = part.pop(new)
    optimizer.load_state_dict(renamed)
    again = optimizer.state_dict()
    if name == "rewind":
        assert again[new]["parameters"].keys() == state[new]["parameters"].keys()
    for site, saved in state["sites"].items():
        for key, tensor in saved.get(new, {}).items():
            assert torch.equal(again["sites"][site][new][key], tensor)
    assert any(new in part for part in (state, *state["sites"].values()))
    train(model, optimizer, x, y, 4)

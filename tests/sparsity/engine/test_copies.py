"""Copies of a model whose patterns change: averages must follow, or are refused; others go their own ways."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import sparsekern as sk

METHODS = ["set", "rigl", "gse_grabo", "gmp", "dpf", "snr_frozen"]


def training(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    options = {"every": 2} if name in ("set", "rigl", "gse_grabo", "gmp", "dpf") else {}
    method = sk.methods.get(name)(sparsity=0.7, total_steps=24, steps_per_epoch=4, **options)
    model = sk.sparsify(nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4)), method)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, sk.Sparsifier(model, optimizer, method)


def step(model: nn.Module, optimizer: Any, i: int) -> None:
    torch.manual_seed(i)
    optimizer.zero_grad()
    model(torch.randn(8, 20)).square().mean().backward()
    optimizer.step()
    if i % 4 == 3:
        optimizer.epoch_end(1.0)


def average(model: nn.Module) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)


@pytest.mark.parametrize("name", METHODS)
def test_an_average_that_does_not_follow_is_refused(name: str) -> None:
    model, optimizer = training(name)
    ema = average(model)

    def train() -> None:
        for i in range(24):
            step(model, optimizer, i)
            ema.update_parameters(model)
            ema.update_parameters(model)  # the first update copies

    with pytest.raises(RuntimeError, match=r"a copy of 0 has got other weights.*followers="):
        train()


@pytest.mark.parametrize("name", METHODS)
def test_snapshots_and_twins_go_their_own_ways(name: str) -> None:
    model, optimizer = training(name)
    x = torch.randn(5, 20)
    snapshot, loaded, trained, deployed = (copy.deepcopy(model) for _ in range(4))
    before, narrow = snapshot(x), deployed.bfloat16()(x.bfloat16())
    trainer = torch.optim.SGD(trained.parameters(), lr=0.1)
    for i in range(12):
        step(model, optimizer, i)
        if name != "gmp":  # whose layers lose room
            loaded.load_state_dict(model.state_dict())
        trainer.zero_grad()
        trained(x).square().mean().backward()
        trainer.step()
    assert torch.equal(snapshot(x), before)
    assert torch.equal(deployed(x.bfloat16()), narrow)
    assert trained(x).isfinite().all()


@pytest.mark.parametrize("frozen", [True, False])
def test_a_run_that_was_copied_goes_on_behind_the_other(frozen: bool) -> None:
    """Also where layers that nobody trains are copied in turn, by what computes the flow through the weights."""
    torch.manual_seed(0)
    method = sk.methods.gse_synflow(sparsity=0.7, total_steps=24, every=2, stop=1.0)
    net = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 4))
    net[2].weight.requires_grad_(not frozen)
    model = sk.sparsify(net, method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    step(model, optimizer, 0)
    copied, its_optimizer = copy.deepcopy((model, optimizer))
    for who in ((model, optimizer), (copied, its_optimizer)):
        for i in range(1, 8):
            step(*who, i)
    first, second = model.state_dict(), copied.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_weights_of_another_pattern_are_not_computed_with() -> None:
    """As an average that begins late: nothing was blended while the pattern changed."""
    model, optimizer = training("set")
    swa = AveragedModel(model)
    for i in range(12):
        step(model, optimizer, i)
    swa.update_parameters(model)
    with pytest.raises(RuntimeError, match="weights of another pattern"):
        swa(torch.randn(2, 20))
    swa.module.load_state_dict(model.state_dict())
    assert torch.equal(swa(torch.ones(2, 20)), model(torch.ones(2, 20)))


@pytest.mark.parametrize("name", METHODS)
def test_an_average_that_joins_later_follows(name: str) -> None:
    model, optimizer = training(name)
    early, late = average(model), None
    optimizer.follow(early)
    optimizer.follow(early)  # twice is once
    assert len(optimizer.followers) == 1
    for i in range(24):
        step(model, optimizer, i)
        for ema in (early, late):
            if ema is not None:
                ema.update_parameters(model)
        if i == 6:
            optimizer.follow(late := copy.deepcopy(early))
            stale = copy.deepcopy(early)
    assert late is not None
    for (key, a), (_, b) in zip(early.state_dict().items(), late.state_dict().items(), strict=True):
        assert torch.equal(a, b), key
    with pytest.raises(ValueError, match=r"another pattern than the model's|lacks the sparse layer"):
        optimizer.follow(stale)


def test_batch_norm_of_an_average_is_updated_as_that_of_its_dense_twin() -> None:
    torch.manual_seed(0)
    method = sk.methods.rigl(sparsity=0.7, total_steps=12, every=3)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.Flatten())
    model = sk.sparsify(nn.Sequential(*layers, nn.Linear(24, 4)), method)
    swa = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = sk.Sparsifier(model, optimizer, method, followers=[swa])
    batches = torch.randn(12, 8, 3, 6, 6)
    for x in batches:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        swa.update_parameters(model)
    dense = copy.deepcopy(swa)
    sk.densify(dense.module)
    for averaged in (swa, dense):
        update_bn(batches, averaged)
    for key in ("1.running_mean", "1.running_var", "4.running_mean", "4.running_var"):
        torch.testing.assert_close(swa.module.state_dict()[key], dense.module.state_dict()[key])
    torch.testing.assert_close(swa.eval()(batches[0]), dense.eval()(batches[0]))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("follows", [False, True])
def test_a_target_network_that_was_loaded_follows_or_is_refused(name: str, follows: bool) -> None:
    """As in reinforcement learning: made like the model, given its weights by `load_state_dict`, then averaged."""
    torch.manual_seed(0)
    model, optimizer = training(name)
    target, _ = training(name)
    target.load_state_dict(model.state_dict())
    if follows:
        optimizer.follow(target)

    def train() -> None:
        for i in range(24):
            step(model, optimizer, i)
            with torch.no_grad():
                for own, parameter in zip(target.parameters(), model.parameters(), strict=True):
                    own.mul_(0.9).add_(parameter, alpha=0.1)

    if not follows:
        with pytest.raises(RuntimeError, match=r"a copy of 0 has got other weights.*followers="):
            train()
        return
    train()
    for site in optimizer.sites:
        assert target.get_submodule(site.name).topology.same_pattern(site.active)


def test_a_model_that_was_loaded_from_another_trains_by_itself() -> None:
    model, optimizer = training("set")
    other, its_optimizer = training("set")
    other.load_state_dict(model.state_dict())
    model.load_state_dict(model.state_dict())
    for i in range(12):
        step(other, its_optimizer, i)
        step(model, optimizer, i)
    assert optimizer.steps == its_optimizer.steps == 12


def test_a_teacher_with_a_gradient_that_nobody_uses_is_no_model_of_its_own() -> None:
    model, optimizer = training("rigl")
    teacher = copy.deepcopy(model)

    def train() -> None:
        for _ in range(24):
            x = torch.randn(16, 20)
            optimizer.zero_grad()
            (model(x) - teacher(x)).square().sum().backward()
            optimizer.step()
            with torch.no_grad():
                for own, parameter in zip(teacher.parameters(), model.parameters(), strict=True):
                    own.lerp_(parameter, 0.1)

    with pytest.raises(RuntimeError, match="got weights of another pattern than it has"):
        train()

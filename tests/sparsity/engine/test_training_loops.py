"""What training loops do with an optimizer, done with the engine in its place."""

import pytest
import torch
from support.networks import NETWORKS, layers, network, start, train
from torch import nn
from torch.nn.functional import cross_entropy

import sparsekern as sk


def test_schedulers_clipping_groups_and_closures() -> None:
    model, _, x, y = start()
    method = sk.methods.gse_grabo(sparsity=0.8, total_steps=60, every=3)
    groups = [
        {"params": [m.values for m in layers(model)], "weight_decay": 1e-2},
        {"params": [m.bias for m in layers(model)], "lr": 0.5},
    ]
    optimizer = sk.Sparsifier(model, torch.optim.SGD(groups, lr=0.1, momentum=0.9), method)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        return loss

    first = optimizer.step(closure)
    for _ in range(9):
        last = optimizer.step(closure)
        scheduler.step()
    assert last.item() < first.item()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.01, 0.05])
    assert optimizer.param_groups is optimizer.optimizer.param_groups
    assert "gse_grabo" in repr(optimizer)


def test_rigl_with_a_closure_replaces_the_step() -> None:
    model, optimizer, x, y = start("rigl")
    train(model, optimizer, x, y, 3)
    before = [site.weight.clone() for site in optimizer.sites]
    calls = []

    def closure() -> torch.Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    assert optimizer.step(closure) is not None
    assert len(calls) == 1
    assert optimizer.rewired
    for site, weight in zip(optimizer.sites, before, strict=True):
        assert set(site.weight.tolist()) <= {*weight.tolist(), 0.0}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler_unscales_whatever_the_implementation(fused: bool, kind: str) -> None:
    weights = []
    for scale in (1.0, 1024.0):
        model, optimizer, x, y = start(kind=kind)
        inner = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        optimizer = sk.Sparsifier(model, inner, optimizer.method)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)
        weights.append(layers(model)[0].values.detach())
    assert torch.allclose(*weights)


def test_grad_scaler_skips_and_arms_again() -> None:
    model, optimizer, x, y = start()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    train(model, optimizer, x, y, 3)
    for poison in (True, False):
        optimizer.zero_grad()
        scaler.scale(cross_entropy(model(x), y)).backward()
        if poison:
            model[0].values.grad[0] = torch.inf
        steps = optimizer.steps
        scaler.step(optimizer)
        scaler.update()
        assert optimizer.steps == steps + (not poison)
        assert optimizer.rewired == (not poison)
        if poison:
            assert all(site.module.probe is not None for site in optimizer.sites)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", ["rigl", "gse_grabo"])
def test_growth_under_autocast(name: str, kind: str) -> None:
    model, optimizer, x, y = start(name, kind=kind)
    changes = 0
    for _ in range(8):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        changes += optimizer.rewired
    assert changes == 2
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_armed_only_in_the_step_of_the_change() -> None:
    model, optimizer, x, y = start()
    for t in range(8):
        armed = [site.module.probe is not None for site in optimizer.sites]
        assert armed == [t > 0 and t % 3 == 0] * 3
        train(model, optimizer, x, y, 1)
    for name in ("set", "gmp", "random"):
        options = {} if name == "random" else {"every": 1}
        method = sk.methods.get(name)(sparsity=0.5, total_steps=60, **options)
        model = sk.sparsify(network(), method)
        optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
        train(model, optimizer, x, y, 2)
        assert all(site.module.probe is None for site in optimizer.sites)

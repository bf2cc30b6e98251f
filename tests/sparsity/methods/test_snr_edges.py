"""SNR pruning: losses that are NaN, what is told of changes at the end of an epoch, layers that a step does not use,
gradients that are not of the loss alone, models converted late."""

import math

import pytest
import torch
from support.trajectories import OPTIMIZERS, batches, make, prepare
from torch import nn
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.sparsity.methods.snr import SignalToNoise


def test_a_loss_of_nan_holds_the_mask_until_the_next() -> None:
    for hold in ("best", "last"):
        rule = SignalToNoise(0.5, 1, "both", hold, False)  # type: ignore[arg-type]
        losses = [math.nan, 3.0, math.nan, 2.0, 2.5]
        assert [rule.frozen(losses[: n + 1]) for n in range(5)] == [False, False, True, False, True]


def test_what_epoch_end_changes_is_told_after_the_next_step() -> None:
    model, optimizer = prepare("linear", "snr", OPTIMIZERS["momentum"])
    told = []
    for t, (x, y) in enumerate(batches("linear", 8), 1):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        if t == 6:
            optimizer.engine.method = make("snr", every=100)  # no other change follows
        optimizer.step()
        if t == 5:
            optimizer.engine.method = make("snr", burn_in=0, every=1)
            assert not optimizer.rewired
            optimizer.epoch_end(1.0)
            assert optimizer.rewired
        told.append((optimizer.rewired, optimizer.reallocated))
    assert told[5][0]
    assert told[6:] == [(False, False)] * 2


@pytest.mark.parametrize("name", ["snr", "snr_frozen"])
def test_a_layer_that_a_step_does_not_use_keeps_its_ratio(name: str) -> None:
    torch.manual_seed(0)
    method = make(name)
    layers = nn.ModuleList([nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 3)])
    model = sk.sparsify(layers, method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    for used in (0, 1):
        optimizer.zero_grad(set_to_none=False)
        before = [site.tracked["ratio"].clone() for site in optimizer.sites]
        layers[2](layers[used](torch.randn(8, 6)).relu()).square().mean().backward()
        optimizer.step()
        changed = [not torch.equal(s.tracked["ratio"], b) for s, b in zip(optimizer.sites, before, strict=True)]
        assert changed == [used == 0, used == 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", ["by value", "penalty"])
def test_a_gradient_that_its_moment_is_not_of_is_refused(change: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = sk.sparsify(nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 3)).to(dtype), make("snr"))
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), make("snr"))
    for changes in (False, True):
        optimizer.zero_grad()
        for x, y in batches("linear", 8):  # accumulated
            loss = cross_entropy(model(x.to(dtype)).float(), y)
            if changes and change == "penalty":
                loss = loss + 0.1 * model[0].weight.float().square().sum()
            loss.backward()
        if changes and change == "by value":
            nn.utils.clip_grad_value_(model.parameters(), 1e-2)
        else:
            nn.utils.clip_grad_norm_(model.parameters(), 1e-2)
        if not changes:
            optimizer.step()
    ratio = optimizer.sites[0].tracked["ratio"].clone()
    with pytest.raises(RuntimeError, match="gradient of 0 is not a multiple of the gradient"):
        optimizer.step()
    assert torch.equal(optimizer.sites[0].tracked["ratio"], ratio)


@pytest.mark.parametrize("name", ["snr", "snr_frozen"])
def test_a_model_may_be_converted_after_its_optimizer_was_built(name: str) -> None:
    model = sk.sparsify(nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 3)), make(name))
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), make(name))
    model.double()
    for x, y in batches("linear", 3):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    assert (optimizer.sites[0].tracked["ratio"] > 0).all()

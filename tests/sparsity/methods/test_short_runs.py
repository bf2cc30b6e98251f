"""Runs that are short, or that end within an epoch."""

import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn

import sparsekern as sk

DPF = ["dpf", "dpf_layerwise", "dpf_filter"]


@pytest.mark.parametrize(
    ("steps", "options"), [(8, {}), (23, {"stop": 1.0}), (23, {"finetune": 3}), (22, {"finetune": 3}), (7, {})]
)
@pytest.mark.parametrize("name", DPF)
def test_dpf_reaches_its_sparsity_where_the_last_epoch_is_a_part(name: str, steps: int, options: dict) -> None:
    torch.manual_seed(0)
    method = sk.methods.get(name)(sparsity=0.7, total_steps=steps, steps_per_epoch=5, every=2, **options)
    model = sk.sparsify(nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3)), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()
    assert optimizer.report().sparsity == pytest.approx(0.7)


@pytest.mark.parametrize("name", DPF)
def test_dpf_needs_an_epoch_to_prune_in(name: str) -> None:
    for steps, options in ((3, {}), (23, {"finetune": 4})):
        with pytest.raises(ValueError, match="needs one of 5 steps to prune in, got 3"):
            sk.methods.get(name)(sparsity=0.7, total_steps=steps, steps_per_epoch=5, **options)


@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [("snr", 10, {}), ("snr_frozen", 30, {"burn_in": 3}), ("dpf", 20, {}), ("optg", 20, {})],
)
def test_a_run_too_short_for_three_changes_warns(name: str, steps: int, options: dict) -> None:
    with pytest.warns(UserWarning, match=f"{name} changes its pattern fewer than three times in {steps} steps") as told:
        sk.methods.get(name)(sparsity=0.7, total_steps=steps, steps_per_epoch=10, **options)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sk.methods.get(name)(sparsity=0.7, total_steps=60, steps_per_epoch=10, **options)


# What a change costs, in training steps, and the fraction of the run that has changes.
PACED = {"gse_grabo": (2, 0.6), "gse_random": (2, 0.6), "rigl": (2, 0.75), "granet": (2, 1.0), "dsr": (1, 0.95)}


@pytest.mark.parametrize("name", PACED)
@pytest.mark.parametrize("steps", [240, 1000, 4000])
def test_changes_take_a_tenth_of_the_time_at_most(name: str, steps: int) -> None:
    cost, _ = PACED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method = sk.methods.get(name)(0.9, steps)
    fired = [t for t in range(steps) if method.when.fires(t)]
    assert min(b - a for a, b in pairwise([0, *fired])) >= 10 * cost
    assert len(fired) >= 3
    assert "tenth of the time" in method.notes[0] or "the paper's" in method.notes[0]


@pytest.mark.parametrize("name", PACED)
def test_a_run_too_short_for_that_says_what_would_do(name: str) -> None:
    with pytest.warns(UserWarning, match=f"{name} spends more than a tenth of the time") as told:
        method = sk.methods.get(name)(0.9, 24)
    assert sum(method.when.fires(t) for t in range(24)) >= 3
    assert told[0].filename == __file__
    enough = int(str(told[0].message).split("about ")[1].split()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sk.methods.get(name)(0.9, enough)
        sk.methods.get(name)(0.9, 24, every=2)


@pytest.mark.parametrize(("name", "steps"), [("snr", 10), ("dpf", 32), ("optg", 20), ("lottery", 30)])
def test_as_many_steps_as_a_warning_asks_for_do(name: str, steps: int) -> None:
    with pytest.warns(UserWarning, match="about .* steps would do") as told:
        sk.methods.get(name)(sparsity=0.9, total_steps=steps, steps_per_epoch=10)
    enough = int(str(told[0].message).split("about ")[1].split()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sk.methods.get(name)(sparsity=0.9, total_steps=enough, steps_per_epoch=10)


def test_an_epoch_is_never_stretched() -> None:
    method = sk.methods.set(sparsity=0.9, total_steps=40, steps_per_epoch=4)
    assert [t for t in range(20) if method.when.fires(t)] == [4, 8, 12, 16]
    assert "every epoch of 4 steps take more than a tenth" in method.notes[0]


@pytest.mark.parametrize("name", DPF)
def test_dpf_makes_masks_often_enough_while_the_sparsity_rises(name: str) -> None:
    for epochs, every in ((20, 4), (50, 11), (100, 16)):
        method = sk.methods.get(name)(sparsity=0.9, total_steps=12 * epochs, steps_per_epoch=12)
        assert [t for t in range(3 * every + 1) if method.when.fires(t)] == [0, every, 2 * every, 3 * every]
        assert bool(method.notes) == (every < 16)

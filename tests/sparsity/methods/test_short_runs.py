"""Runs that are short, or that end within an epoch."""

import warnings

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

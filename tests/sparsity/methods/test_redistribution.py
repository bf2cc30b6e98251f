"""Weights that move between layers: DSR by what survives a threshold, SNFS by momentum."""

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from support.networks import network, train
from support.trajectories import KINDS, OPTIMIZERS, batches, prepare, step
from torch import nn

import sparsekern as sk
from sparsekern.models import build
from sparsekern.sparsity.change.transaction import Transaction
from sparsekern.sparsity.methods.snfs import momentum
from sparsekern.sparsity.parts import scopes
from sparsekern.sparsity.parts.distributions import apportion
from sparsekern.sparsity.parts.schedules import Cadence, Stages

# ---- DSR


def dsr(threshold: float, pruned: int, sparsity: float = 0.8) -> tuple[Any, sk.Sparsifier]:
    torch.manual_seed(0)
    method = sk.methods.dsr(
        sparsity=sparsity, total_steps=100, every=1, threshold=threshold, pruned=pruned, initialize="keep"
    )
    model = sk.sparsify(network(), method)
    return model, sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9), method)


@pytest.mark.parametrize(("pruned", "factor"), [(64, 0.5), (66, 1.0), (78, 1.0), (80, 2.0)])
def test_dsr_prunes_below_its_threshold_and_adapts_it(pruned: int, factor: float) -> None:
    model, optimizer = dsr(0.03, pruned)
    x, y = torch.randn(16, 30), torch.randint(5, (16,))
    train(model, optimizer, x, y, 1)
    before = [(site.active.mask(), site.active.dense(site.module.values.detach())) for site in optimizer.sites]
    train(model, optimizer, x, y, 1)
    kept = [mask & (weight.abs() >= 0.03) for mask, weight in before]
    removed = sum(int(mask.sum()) for mask, _ in before) - sum(int(keep.sum()) for keep in kept)
    assert removed == 71
    left = [int(keep.sum()) for keep in kept]
    absent = [int((~mask).sum()) for mask, _ in before]
    for site, keep, (mask, _), grown in zip(
        optimizer.sites, kept, before, apportion(left, absent, removed), strict=True
    ):
        now = site.active.mask()
        assert bool((now & keep).sum() == keep.sum())
        assert not (now & mask & ~keep).any()  # what was just pruned does not return
        assert int((now & ~mask).sum()) == grown
        assert not site.active.dense(site.module.values.detach())[now & ~mask].any()
        assert float(site.tracked["threshold"]) == 0.03 * factor
    assert sum(site.nnz for site in optimizer.sites) == 420


def test_dsr_leaves_a_weight_in_every_layer_and_never_loses_one() -> None:
    model, optimizer = dsr(1e3, 100)
    x, y = torch.randn(16, 30), torch.randint(5, (16,))
    train(model, optimizer, x, y, 1)
    masks = [site.active.mask() for site in optimizer.sites]
    largest = [site.weight.abs().max() for site in optimizer.sites]
    train(model, optimizer, x, y, 1)
    for site, mask, weight in zip(optimizer.sites, masks, largest, strict=True):
        stays = (site.active.mask() & mask).flatten()[site.active.coordinates()]
        assert site.weight[stays].abs().tolist() == [weight]
    assert sum(site.nnz for site in optimizer.sites) == 420
    model, optimizer = dsr(1e3, 100, sparsity=0.1)  # there is no room to grow what all layers would drop
    train(model, optimizer, x, y, 3)
    assert optimizer.rewired
    assert sum(site.nnz for site in optimizer.sites) == 1890


def test_dsr_slows_down_as_the_paper_does() -> None:
    method = sk.methods.dsr(sparsity=0.9, total_steps=78200)
    fired = [t for t in range(78200) if method.when.fires(t)]
    gaps = [b - a for a, b in pairwise(fired)]
    assert fired[0] == 100
    assert fired[-1] <= 0.95 * 78200
    assert sorted(set(gaps)) == [100, 200, 400, 800]
    assert gaps == sorted(gaps)
    assert len(fired) == method.when.count(78200) == 97 + 107 + 59 + 24
    assert method.when.before(fired[200]) == fired[199]
    assert method.when.before(100) == 0
    short = sk.methods.dsr(sparsity=0.9, total_steps=7820)
    assert short.when.count(7820) == pytest.approx(len(fired), abs=4)
    assert "every 10 steps instead of 100" in short.notes[0]
    with pytest.warns(UserWarning, match="fewer than three times in 20 steps"):
        sk.methods.dsr(sparsity=0.9, total_steps=20, every=10)
    for options in ({"threshold": 0.0}, {"pruned": 0}):
        with pytest.raises(ValueError, match="threshold > 0 and pruned >= 1"):
            sk.methods.dsr(sparsity=0.9, total_steps=20, **options)
    assert not Stages((Cadence(2, 1, 4), Cadence(4, 5, 9))).fires(6)


def test_dsr_leaves_the_first_convolution_and_shortcuts_dense() -> None:
    layers: Any = {n: m for n, m in build("wrn28-2", (3, 32, 32), 10).named_modules() if isinstance(m, nn.Conv2d)}
    left = layers.keys() - scopes.without_first_and_shortcuts(layers).keys()
    assert len(left) == 4
    assert next(iter(layers)) in left
    assert all(layers[name].kernel_size == (1, 1) for name in left - {next(iter(layers))})
    assert list(scopes.without_first_and_shortcuts({"only": nn.Linear(2, 2)})) == ["only"]


# ---- SNFS


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "sgd"])
@pytest.mark.parametrize("kind", KINDS)
def test_snfs_moves_weights_to_momentum(kind: str, optimizer: str) -> None:
    model, sparsifier = prepare(kind, "snfs", OPTIMIZERS[optimizer])
    data = batches(kind)
    for batch in data[:3]:
        step(model, sparsifier, batch)
    copied, other = copy.deepcopy((model, sparsifier))
    other.engine.method = sk.methods.snfs(sparsity=0.7, total_steps=20, every=19)  # the same step without the change
    step(copied, other, data[3])
    step(model, sparsifier, data[3])
    rate = 0.005 + 0.495 / 2 * (1 + math.cos(math.pi * 4 / 20))
    before = [site.active.mask() for site in other.sites]
    moments = [momentum(site) for site in other.sites]
    for site, moment in zip(other.sites, moments, strict=True):
        state = other.state[site.module.stored]
        expected = {
            "momentum": lambda s: s["momentum_buffer"],
            "adam": lambda s: s["exp_avg"] / (s["exp_avg_sq"].sqrt() + 1e-8),
        }.get(optimizer, lambda s, site=site: site.grad)(state)
        assert torch.equal(moment, expected.abs())
        assert not site.weight[~site.active.mask()].any()
    means = [float(m[mask].mean()) for m, mask in zip(moments, before, strict=True)]
    removed = []
    for mask, mean in zip(before, means, strict=True):
        sparsity = 1 - float(mask.double().mean())
        own = min(rate, sparsity) if sparsity < 0.2 and mean > sum(means) / len(means) else rate
        removed.append(math.ceil(own * int(mask.sum())))
    free = [int((~mask).sum()) + n for mask, n in zip(before, removed, strict=True)]
    grown = apportion(means, [math.floor(0.99 * n) for n in free], sum(removed))
    assert sum(grown) == sum(removed)
    for site, old, mask, moment, n, k in zip(
        sparsifier.sites, other.sites, before, moments, removed, grown, strict=True
    ):
        stays = torch.zeros(site.size, dtype=torch.bool)
        weight = old.weight.abs().masked_fill(~mask, -1).flatten()
        stays[weight.topk(int(mask.sum()) - n).indices] = True
        expected = stays.clone()
        expected[moment.flatten().masked_fill(stays, -1).topk(k).indices] = True
        assert torch.equal(site.active.mask().flatten(), expected)
        assert torch.equal(site.weight.flatten()[stays], old.weight.flatten()[stays])
        assert not site.weight[~site.active.mask()].any()
        assert torch.equal(site.weight[site.active.mask()], old.weight[site.active.mask()])  # of what returned, too
        new = site.active.mask() & ~mask
        assert not site.weight[new].any()
        if optimizer == "momentum":  # which it keeps
            assert sparsifier.state[site.module.stored]["momentum_buffer"][new].all()


def full(shares: list[float], sparsity: float) -> tuple[list[int], list[int]]:
    """Weights of each layer before and after a change, with these mean momenta."""
    torch.manual_seed(0)
    method = sk.methods.snfs(sparsity=sparsity, total_steps=100, every=1)
    model = sk.sparsify(nn.Sequential(*(nn.Linear(20, 20, bias=False) for _ in shares)), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.0), method)
    for site, share in zip(optimizer.sites, shares, strict=True):
        site.parameter.grad = torch.full(site.shape, share)
    counts = [site.nnz for site in optimizer.sites]
    change = Transaction()
    masks = method.rule.masks([change.site(site) for site in optimizer.sites], 0, [])
    return counts, [int(mask.sum()) for mask in masks or []]


def test_snfs_fills_no_layer_and_spares_the_full_ones() -> None:
    assert full([1.0, 1.0], 0.5) == ([200, 200], [200, 200])
    assert full([1000.0, 1.0], 0.5)[1] == [300, 100]
    before, after = full([1000.0, 1.0], 0.1)  # 10 % sparse, above the average: drops 10 %, not half
    assert before == [360, 360]
    assert after[0] == 360 - 36 + math.floor(0.99 * (40 + 36))
    assert sum(after) == 720
    assert full([1.0, 1.0, 1.0], 0.0)[1] == [400, 400, 400]  # without a place to leave free the caps give way


def test_snfs_without_any_gradient_shares_evenly() -> None:
    assert full([0.0, 0.0], 0.5) == ([200, 200], [200, 200])


@pytest.mark.parametrize("name", ["momentum", "amsgrad"])
def test_snfs_zeros_stay_zero(name: str) -> None:
    model, optimizer = prepare("linear", "snfs", OPTIMIZERS[name])
    for batch in batches("linear"):
        step(model, optimizer, batch)
        assert not any(site.weight[~site.active.mask()].any() for site in optimizer.sites)

"""What the five papers' methods do unless told otherwise."""

import copy
from math import exp

import pytest
import torch
from torch import nn

import sparsekern as sk
from sparsekern.sparsity import growth
from sparsekern.sparsity.methods.prospr import Prospect
from sparsekern.sparsity.parts import views

GSE = {
    "gse_random": growth.flat,
    "gse_synflow": growth.synaptic_flow,
    "gse_grabo": growth.gradient_bound,
    "gse_graest": growth.gradient_estimate,
}


@pytest.mark.parametrize("finetune", [0, 60])
@pytest.mark.parametrize("name", ["dpf", "dpf_layerwise", "dpf_filter"])
def test_dpf(name: str, finetune: int) -> None:
    """Masks every 16 steps and after the last one, here no multiple of 16; the ramp by epochs ends at 225 of 300."""
    method, last = sk.methods.get(name)(0.9, (300 + finetune) * 21, 21, finetune=finetune), 300 * 21
    assert [t for t in range(70) if method.when.fires(t)] == [0, 16, 32, 48, 64]
    assert [t for t in range(6280, 7560) if method.when.fires(t)] == [6288, last]
    assert method.storage.until == (last if finetune else None)
    assert method.sparsity(20) == 0
    assert method.sparsity(21) == method.sparsity(41) == pytest.approx(0.9 * (1 - (1 - 1 / 225) ** 3))
    assert method.sparsity(225 * 21 - 1) < method.sparsity(225 * 21) == method.sparsity(last) == 0.9


@pytest.mark.parametrize("name", ["snr", "snr_frozen"])
def test_snr(name: str) -> None:
    method = sk.methods.get(name)(total_steps=1000, steps_per_epoch=50)
    rule = method.rule
    assert rule.decay == pytest.approx(0.01 ** (1 / 20))
    assert (rule.refresh, rule.criterion, rule.hold, rule.unprune) == (1, "both", "best", False)
    assert [t for t in range(54) if method.when.fires(t)] == [51, 52, 53]
    assert method.sparsity(999) == 0


def test_optg() -> None:
    method = sk.methods.optg(0.9, 16_000, 100)
    assert method.rule.momentum == 0.9
    assert method.view is views.network
    assert [t for t in range(16_000) if method.when.fires(t)] == list(range(100, 16_000, 100))
    assert method.sparsity(7000) == pytest.approx(0.9 / (1 + exp(0.5 * (80 - 70))))


@pytest.mark.parametrize("name", ["prospr", "prospr_first_order", "prospr_channel"])
def test_prospr(name: str) -> None:
    start = sk.methods.get(name)(0.9).start
    assert (start.batches, start.batch_size) == (4, 512)
    prospect = start.choose.args[0] if name == "prospr_channel" else start.choose
    assert prospect == Prospect(3, 0.1, 0.0, True, first_order=name == "prospr_first_order")


@pytest.mark.parametrize("name", list(GSE))
def test_gse(name: str) -> None:
    """Every 1000 steps up to the second of the learning rate's drops, 120 of 200 epochs, a fifth at first."""
    method = sk.methods.get(name)(0.9, 78200)
    assert [t for t in range(78200) if method.when.fires(t)] == list(range(1000, 46001, 1000))
    assert method.grow.rate(0) == pytest.approx(0.2)
    assert method.grow.rate(0.6 * 78200) == pytest.approx(0)
    assert (method.grow.multiplier, method.grow.batches, method.grow.armed) == (10, 1, True)
    assert method.grow.candidates.args == (GSE[name],)
    assert method.view is views.network
    assert method.start.share([(10, 10), (30, 10)], 40, None) == [10, 30]
    assert method.start.initialize == "fan_in"


def test_filters_compared_by_the_size_of_a_weight() -> None:
    """Of a filter of three weights and one of twenty-seven, alike in size, the larger norm is that of the second."""
    kept = []
    for normalise in (False, True):
        method = sk.methods.dpf_filter(0.5, 20, 1, every=1, normalise=normalise)
        model = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.Conv2d(3, 1, 3, bias=False))
        nn.init.constant_(model[0].weight, 1.1)
        nn.init.constant_(model[1].weight, 1.0)
        optimizer = sk.Sparsifier(sk.sparsify(model, method), torch.optim.SGD(model.parameters(), lr=0.0), method)
        for _ in range(20):
            optimizer.step()
        kept.append([site.nnz for site in optimizer.sites])
    assert kept == [[0, 27], [3, 0]]


def test_a_ratio_refreshed_rarely_forgets_as_fast() -> None:
    torch.manual_seed(0)
    plain, data = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(4, 8, 5)

    def ratio(*batches: int, refresh: int = 1) -> torch.Tensor:
        method = sk.methods.snr(total_steps=12, steps_per_epoch=4, memory=0.5, refresh=refresh, hold="never")
        model = sk.sparsify(copy.deepcopy(plain), method)
        optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.0), method)
        for i in batches:
            optimizer.zero_grad()
            model(data[i]).square().sum().backward()
            optimizer.step()
        return optimizer.sites[0].tracked["ratio"]

    first, second = ratio(0), ratio(3)
    assert torch.equal(ratio(0, 1, 2, refresh=3), first)
    decay = 0.01 ** (3 / 6)  # of six steps 99 % are forgotten
    torch.testing.assert_close(ratio(0, 1, 2, 3, refresh=3), decay * first + (1 - decay) * second)

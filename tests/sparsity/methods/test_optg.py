"""OptG: scores, rates, masks and revival, on numbers worked out by hand."""

import copy
from math import exp
from typing import Any

import pytest
import torch
from support.networks import convnet
from support.trajectories import OPTIMIZERS, batches, prepare, step
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.sparsity.engine.draft import drafted
from sparsekern.sparsity.parts.distributions import by_name


class Product(nn.Module):
    """The loss G . (m * w), whose gradient by the masked weight is G."""

    def __init__(self, weight: Tensor, gradient: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(len(weight), 1, bias=False, dtype=torch.double)
        self.layer.weight.data.copy_(weight)
        self.gradient = gradient

    def forward(self) -> Tensor:
        return self.layer(self.gradient).sum()


def build(lr: float, sparsity: float = 0.25, **options: object) -> tuple[Any, sk.Sparsifier]:
    weight = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.double)
    gradient = torch.tensor([0.5, 0.5, -1.0, -2.0], dtype=torch.double)
    method = sk.methods.optg(sparsity=sparsity, total_steps=4, steps_per_epoch=1, momentum=0.0, **options)
    model = sk.sparsify(Product(weight, gradient), method)
    return model, sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=lr), method)


def advance(model: Product, optimizer: sk.Sparsifier) -> None:
    optimizer.zero_grad()
    model().backward()
    optimizer.step()


def test_scores_step_against_gradient_times_weight_and_the_smallest_is_pruned() -> None:
    model, optimizer = build(lr=0.1, steepness=1e-9)  # a rate of half the weight's in every epoch but the last
    site = optimizer.sites[0]
    weight = model.layer.weight.detach().clone()
    advance(model, optimizer)
    expected = -0.1 / 2 * torch.tensor([0.5, -1.0, -3.0, -1.0], dtype=torch.double)
    torch.testing.assert_close(site.tracked["score"][0], expected)
    torch.testing.assert_close(model.layer.weight.detach(), weight - 0.1 * model.gradient)
    model, optimizer = build(lr=0.1, steepness=1e9)  # a step: half of the sparsity, no weight, in the third epoch
    for pruned in ([], [], [0]):
        advance(model, optimizer)
        assert (~optimizer.sites[0].active.mask()[0]).nonzero().flatten().tolist() == pruned


def test_rate_of_the_scores_follows_the_sparsity() -> None:
    method = sk.methods.optg(sparsity=0.9, total_steps=1600, steps_per_epoch=10)
    assert method.sparsity(800) == pytest.approx(0.45)  # epoch tau / 2
    assert method.sparsity(0) == pytest.approx(0, abs=1e-15)
    assert method.sparsity(1599) == 0.9
    for t in (0, 200, 799, 805, 1200, 1599):
        assert method.rule.progress(t) == pytest.approx(method.sparsity(t) / 0.9)
    paper = 0.9 / (1 + torch.tensor(-0.5 * (70 - 80)).exp().item())
    assert method.sparsity(700) == pytest.approx(paper)


def test_masks_every_so_many_steps() -> None:
    """They are what epochs are in the formula: 10 of 90 steps, so alpha is 8."""
    method = sk.methods.optg(0.9, 900, 45, every=90)
    assert [t for t in range(900) if method.when.fires(t)] == list(range(90, 900, 90))
    assert method.sparsity(360) == pytest.approx(0.9 / (1 + exp(-8 * (4 - 5))))
    assert method.sparsity(899) == 0.9
    with pytest.raises(ValueError, match="takes every >= 1, got 0"):
        sk.methods.optg(0.9, 900, 45, every=0)


def test_masks_change_at_epochs_only_and_are_exact() -> None:
    model, optimizer = prepare("conv", "optg", OPTIMIZERS["momentum"])
    assert [site.name for site in optimizer.sites] == ["0", "3", "6", "7", "11"]  # the classifier, too
    size = sum(site.size for site in optimizer.sites)
    for t, batch in enumerate(batches("conv"), 1):
        step(model, optimizer, batch)
        assert not optimizer.rewired or t % 5 == 0
        sparsity = optimizer.method.sparsity(min(t, 19))
        assert sum(site.nnz for site in optimizer.sites) == sk.topology.nnz_at(sparsity, size)
    assert sum(site.nnz for site in optimizer.sites) == sk.topology.nnz_at(0.7, size)


def test_a_pruned_weight_keeps_its_value_while_its_score_moves_and_returns_with_it() -> None:
    model, optimizer = prepare("linear", "optg", OPTIMIZERS["sgd"])
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    data = batches("linear")
    for batch in data[:15]:
        step(model, optimizer, batch)
    site = optimizer.sites[0]
    absent = ~site.active.mask()
    assert absent.any()
    weight, score = site.weight.clone(), site.tracked["score"].clone()
    step(model, optimizer, data[15])
    assert torch.equal(site.weight[absent], weight[absent])
    assert (site.tracked["score"] != score)[absent].float().mean() > 0.9
    assert (site.module.stored.grad[absent] == 0).all()
    assert (site.weight != weight)[~absent].float().mean() > 0.9
    site.tracked["score"].masked_fill_(absent, 1e3)  # they shall return
    optimizer.engine.now.steps = 4
    step(model, optimizer, data[16])
    assert torch.equal(site.weight[absent], weight[absent])
    optimizer.engine.now.steps = 15
    with drafted(optimizer.engine) as draft:
        draft.change()
    assert site.active.mask()[absent].any()
    assert torch.equal(site.module.active_weight(site.weight)[: site.nnz], site.weight[site.active.mask()])


def test_without_a_rate_of_the_weights_the_scores_are_those_of_a_supermask() -> None:
    """q <- SGD with momentum on the gradient of the loss by a mask that multiplies fixed weights (edge-popup)."""
    torch.manual_seed(0)
    method = sk.methods.optg(sparsity=0.5, total_steps=6, steps_per_epoch=2, steepness=2.0)
    model = sk.sparsify(convnet().double(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    frozen = list(model.parameters())
    before = [p.detach().clone() for p in frozen]
    scores = [torch.zeros_like(site.weight, requires_grad=True) for site in optimizer.sites]
    supermask = torch.optim.SGD(scores, lr=0.1, momentum=0.9)
    for x, y in batches("conv", 6):
        masks = [site.active.mask().double().requires_grad_() for site in optimizer.sites]
        twin = {name: p.detach() for name, p in model.named_parameters()}
        twin |= {f"{s.name}.weight": m * s.weight for s, m in zip(optimizer.sites, masks, strict=True)}
        dense = sk.densify(copy.deepcopy(model))
        loss = cross_entropy(torch.func.functional_call(dense, twin, (x,)), y)
        for score, gradient in zip(scores, torch.autograd.grad(loss, masks), strict=True):
            score.grad = gradient
        supermask.param_groups[0]["lr"] = 0.1 * method.rule.progress(optimizer.steps)
        supermask.step()
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        with torch.no_grad():  # the rate of the weights is 0
            for parameter, value in zip(frozen, before, strict=True):
                parameter.copy_(value)
    for site, score in zip(optimizer.sites, scores, strict=True):
        torch.testing.assert_close(site.tracked["score"], score.detach())


@pytest.mark.parametrize("share", ["uniform", "erk"])
def test_fixed_budgets_of_the_layers(share: str) -> None:
    torch.manual_seed(0)
    method = sk.methods.optg(sparsity=0.7, total_steps=20, steps_per_epoch=5, share=share)
    model = sk.sparsify(convnet().double(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    for batch in batches("conv"):
        step(model, optimizer, batch)
    shapes = [site.shape for site in optimizer.sites]
    total = sk.topology.nnz_at(0.7, sum(site.size for site in optimizer.sites))
    assert [site.nnz for site in optimizer.sites] == by_name(share)(shapes, total, None)


def test_a_narrow_weight_has_a_wide_score() -> None:
    method = sk.methods.optg(sparsity=0.5, total_steps=4, steps_per_epoch=2)
    model = sk.sparsify(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).bfloat16(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    x = torch.randn(4, 8, dtype=torch.bfloat16)
    model(x).square().mean().backward()
    site = optimizer.sites[0]
    expected = -0.1 * method.rule.progress(0) * site.grad.float() * site.weight.float()
    optimizer.step()
    assert site.tracked["score"].dtype == torch.float32
    torch.testing.assert_close(site.tracked["score"], expected)


def test_errors() -> None:
    for options, message in (
        ({"steepness": 0.0}, "steepness must be above 0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
        ({"share": "even"}, "distribution must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            sk.methods.optg(sparsity=0.5, total_steps=10, steps_per_epoch=2, **options)
    with pytest.raises(ValueError, match="a run needs two, got 1"):
        sk.methods.optg(sparsity=0.5, total_steps=10, steps_per_epoch=10)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        sk.methods.optg(sparsity=0.5, total_steps=10)

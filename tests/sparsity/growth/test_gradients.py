"""Growth by the gradients of several batches."""

import copy
from typing import Any

import pytest
import torch
from support.networks import NETWORKS, layers, network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk

HEURISTICS = ["gse_random", "gse_synflow", "gse_grabo", "gse_graest"]


def data(kind: str, n: int, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    shape = NETWORKS[kind][1]
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(size, *shape, generator=generator), torch.randint(5, (size,), generator=generator))
        for _ in range(n)
    ]


def prepare(name: str, kind: str, n: int, batches: Any, **options: Any) -> tuple[nn.Module, sk.Sparsifier]:
    torch.manual_seed(0)
    method = sk.methods.get(name)(sparsity=0.7, total_steps=30, every=2, batches=n, **options)
    model = sk.sparsify(nn.Sequential(NETWORKS[kind][0](), nn.Dropout(0.2)), method)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, sk.Sparsifier(model, optimizer, method, batches=batches, loss=cross_entropy)


def step(model: nn.Module, optimizer: sk.Sparsifier, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    cross_entropy(model(x), y).backward()
    optimizer.step()


@pytest.mark.parametrize("kind", NETWORKS)
def test_statistics_are_sums_over_the_batches(kind: str) -> None:
    """Against one backward pass of the summed loss, and against the records of all batches at once."""
    batches = data(kind, 3)
    model, optimizer = prepare("gse_grabo", kind, 3, batches)
    model[1].p = 0.0
    passes, sites = optimizer.engine.gradients, optimizer.sites
    passes.begin(0)
    everywhere = [torch.arange(site.size) for site in sites]
    got = passes.total(sites, lambda i, site: (site.probe.row_weight(), site.probe.col_weight()))
    gradients = passes.total(sites, lambda i, site: (site.probe.gradient_at(everywhere[i]),))
    twin = sk.densify(copy.deepcopy(model))
    weights = [twin.get_submodule(site.name).weight for site in sites]
    expected = torch.autograd.grad(sum(cross_entropy(twin(x), y) for x, y in batches), weights)
    for site in sites:
        site.arm()
    for x, y in batches:
        cross_entropy(model(x), y).backward()
    for site, (rows, cols), (gradient,), dense in zip(sites, got, gradients, expected, strict=True):
        torch.testing.assert_close(rows, site.probe.row_weight())
        torch.testing.assert_close(cols, site.probe.col_weight())
        torch.testing.assert_close(gradient, dense.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", HEURISTICS)
def test_a_change_leaves_all_but_the_pattern(name: str) -> None:
    """Weights that stay, biases, running statistics, gradients, modes and random state are those of a run without."""
    x, y = data("conv", 1)[0]
    outcomes = []
    for n in (1, 2):
        model, optimizer = prepare(name, "conv", n, data("conv", 2))
        model[0][4].eval()
        torch.manual_seed(7)
        for _ in range(3):
            step(model, optimizer, x, y)
        assert optimizer.rewired
        assert not model[0][4].training
        assert all(layer.probe is None for layer in layers(model))
        outcomes.append((model, torch.get_rng_state(), optimizer.sites))
    (one, random, sites), (two, other, others) = outcomes
    assert torch.equal(random, other)
    for key, tensor in one.state_dict().items():
        if "running" in key or "tracked" in key or "bias" in key:
            assert torch.equal(tensor, two.state_dict()[key]), key
    for site, twin in zip(sites, others, strict=True):
        a, b = (s.active.dense(s.module.values.detach()) for s in (site, twin))
        common = site.active.mask() & twin.active.mask()
        assert torch.equal(a[common], b[common])
        gradients = [s.active.dense(s.module.values.grad) for s in (site, twin)]
        assert torch.equal(gradients[0][common], gradients[1][common])


def test_both_passes_see_the_same_dropout_and_the_same_batches() -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            return x

    model, optimizer = prepare("gse_grabo", "linear", 2, lambda step: iter(data("linear", 5)))
    model.append(Spy())
    x, y = data("linear", 1)[0]
    for _ in range(3):
        step(model, optimizer, x, y)
    first, second = seen[3:5], seen[5:]
    assert len(seen) == 7
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    assert (first[0] == 0).any()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", HEURISTICS)
def test_resume_is_bit_for_bit(name: str, kind: str) -> None:
    x, y = data(kind, 1)[0]

    def source(step: int) -> list[tuple[Tensor, Tensor]]:
        return data(kind, step + 2)[step:]

    model, optimizer = prepare(name, kind, 2, source)
    for t in range(9):
        if t == 4:
            saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), torch.get_rng_state()))
        step(model, optimizer, x, y)
    resumed, continuation = prepare(name, kind, 2, source)
    resumed.load_state_dict(saved[0])
    continuation.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    for _ in range(5):
        step(resumed, continuation, x, y)
    first, second = model.state_dict(), resumed.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert optimizer.report().rows == continuation.report().rows


def test_what_growth_batches_take() -> None:
    for wrong, message in (
        (None, r"gse_grabo grows by the gradients of 2 batches: pass Sparsifier\(batches=, loss=\)"),
        (iter(data("linear", 2)), "iterate over again and again"),
        (3, "iterate over again and again"),
        (data("linear", 1), "of 2 batches, but batches= gives 1"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare("gse_grabo", "linear", 2, wrong)
    with pytest.raises(ValueError, match="batches must be at least 1, got 0"):
        prepare("gse_grabo", "linear", 0, None)
    x, y = data("linear", 1)[0]
    model, optimizer = prepare("gse_grabo", "linear", 2, lambda step: data("linear", 1))
    step(model, optimizer, x, y)
    step(model, optimizer, x, y)
    with pytest.raises(ValueError, match="of 2 batches, but batches= gives 1"):
        step(model, optimizer, x, y)


def test_a_layer_that_the_step_does_not_reach_rests() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = network(), nn.Linear(30, 20)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    method = sk.methods.gse_grabo(sparsity=0.7, total_steps=30, every=1, batches=2)
    model = sk.sparsify(Branches(), method)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = sk.Sparsifier(model, inner, method, batches=data("linear", 2), loss=cross_entropy)
    before = model.idle.topology
    for _ in range(3):
        step(model, optimizer, *data("linear", 1)[0])
    assert optimizer.rewired
    assert model.idle.topology.same_pattern(before)

"""Dynamic baselines: GraNet, DeepR, and gradual pruning that gives its memory back."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from support.networks import network, train
from support.trajectories import KINDS, OPTIMIZERS, batches, prepare, step
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

import sparsekern as sk
from sparsekern.topology import nnz_at


def dense_gradients(model: nn.Module, sites: list, batch: tuple[Tensor, Tensor]) -> list[Tensor]:
    """dL/dW of every layer by plain autograd on the dense twin."""
    twin: Any = sk.densify(copy.deepcopy(model))
    return list(
        torch.autograd.grad(
            cross_entropy(twin(batch[0]), batch[1]), [twin.get_submodule(site.name).weight for site in sites]
        )
    )


def dense_weights(optimizer: sk.Sparsifier) -> list[Tensor]:
    return [site.active.dense(site.module.values.detach()) for site in optimizer.sites]


# ---- GraNet


@pytest.mark.parametrize("kind", KINDS)
def test_granet_prunes_globally_and_exchanges_within_layers(kind: str) -> None:
    model, optimizer = prepare(kind, "granet", OPTIMIZERS["momentum"])
    data = batches(kind)
    for t in range(8):
        step(model, optimizer, data[t])
    masks = [site.active.mask() for site in optimizer.sites]
    gradients = dense_gradients(model, optimizer.sites, data[8])
    after: list[Tensor] = []
    inner = optimizer.optimizer.step

    def record(closure: object = None) -> None:
        inner()
        after.extend(dense_weights(optimizer))

    optimizer.optimizer.step = record  # type: ignore[method-assign]
    step(model, optimizer, data[8])
    size = sum(mask.numel() for mask in masks)
    sparsity = 0.7 - 0.2 * (1 - 8 / 12) ** 3
    rate = 0.005 + 0.495 / 2 * (1 + math.cos(math.pi * 8 / 20))
    magnitude = torch.cat([w.abs().masked_fill(~m, -1).flatten() for w, m in zip(after, masks, strict=True)])
    pruned = torch.zeros(size, dtype=torch.bool)
    pruned[magnitude.topk(nnz_at(sparsity, size)).indices] = True
    for site, weight, gradient, mark in zip(
        optimizer.sites, after, gradients, pruned.split([m.numel() for m in masks]), strict=True
    ):
        left = int(mark.sum())
        count = math.ceil(rate * left)
        expected = torch.zeros_like(mark)
        expected[weight.abs().flatten().masked_fill(~mark, -1).topk(left - count).indices] = True
        expected[gradient.abs().flatten().masked_fill(expected, -1).topk(count).indices] = True
        assert torch.equal(site.active.mask().flatten(), expected)
    for site, mask in zip(optimizer.sites, masks, strict=True):
        grown = (site.active.mask() & ~mask).flatten()[site.active.coordinates()]
        assert grown.any()
        assert not site.weight[grown].any()
        assert not optimizer.state[site.module.values]["momentum_buffer"][: site.nnz][grown].any()


def test_granet_begins_with_half_of_the_weights_and_ends_exactly() -> None:
    method = sk.methods.granet(sparsity=0.95, total_steps=62560)
    assert [method.sparsity(t) for t in (0, 43000, 62559)] == pytest.approx([0.5, 0.95, 0.95])
    assert method.sparsity(21000) == pytest.approx(0.95 - 0.45 * (1 - 21 / 43) ** 3)
    assert method.when.period == 1000
    assert [method.grow.rate(t) for t in (0, 31280, 62560)] == pytest.approx([0.5, 0.2525, 0.005])
    assert sk.methods.granet(sparsity=0.3, total_steps=100).sparsity(0) == 0.3
    with (
        pytest.raises(ValueError, match="so never in a run of 10"),
        pytest.warns(UserWarning, match="fewer than three"),
    ):
        sk.methods.granet(sparsity=0.9, total_steps=10, every=10)
    with pytest.raises(ValueError, match=r"initial sparsity in \[0, 1\), got 1"):
        sk.methods.granet(sparsity=0.9, total_steps=10, initial=1)


# ---- DeepR


@pytest.mark.parametrize("kind", KINDS)
def test_deepr_keeps_signs_and_counts(kind: str) -> None:
    model, optimizer = prepare(kind, "deepr", OPTIMIZERS["sgd"])
    counts = [site.nnz for site in optimizer.sites]
    before = dense_weights(optimizer)
    returned = 0
    for batch in batches(kind):
        masks = [site.active.mask() for site in optimizer.sites]
        step(model, optimizer, batch)
        now = dense_weights(optimizer)
        assert [site.nnz for site in optimizer.sites] == counts
        for site, mask, old, new in zip(optimizer.sites, masks, before, now, strict=True):
            assert bool((old * new >= 0).all())
            returned += int((site.active.mask() & ~mask).sum())
        before = now
    assert returned > 5


def test_deepr_pulls_and_shakes_theta_after_the_step() -> None:
    method = sk.methods.deepr(sparsity=0.5, total_steps=5, l1=0.1, noise=0.2)
    torch.manual_seed(0)
    model = sk.sparsify(nn.Linear(20, 10, bias=False).double(), method)
    model.values.data.add_(3 * model.values.data.sign())
    optimizer = sk.Sparsifier(
        model, torch.optim.SGD(model.parameters(), lr=0.5), method, generator=torch.Generator().manual_seed(1)
    )
    weight, gradient = model.values.detach().clone(), torch.randn(100).double()
    model.values.grad = gradient.clone()
    optimizer.step()
    again = torch.Generator().manual_seed(1)
    torch.randint(2, (100,), generator=again, dtype=torch.int8)
    noise = torch.randn(100, generator=again)
    sign = weight.sign()
    theta = sign * (weight - 0.5 * gradient) - 0.5 * 0.1 + 0.5 * 0.2 * noise
    torch.testing.assert_close(model.values.detach(), sign * theta)
    for options in ({"l1": -1.0}, {"noise": -1.0}):
        with pytest.raises(ValueError, match="l1 and noise of at least 0"):
            sk.methods.deepr(sparsity=0.5, total_steps=5, **options)


def test_deepr_returns_what_has_no_sign_with_a_random_one() -> None:
    method = sk.methods.deepr(sparsity=0.5, total_steps=5, l1=0.0, noise=0.0)
    torch.manual_seed(0)
    model = sk.sparsify(nn.Linear(100, 100, bias=False), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.5), method)
    model.values.data.zero_()
    model.values.grad = torch.ones(5000)
    first = model.topology.coordinates()
    optimizer.step()  # all weights go down: those of sign +1 are dormant then, the others negative
    gone = 5000 - int(torch.isin(first, model.topology.coordinates()[model.values.detach() < 0]).sum())
    assert abs(gone - 2500) < 4 * 5000**0.5 / 2
    assert int((model.values == 0).sum()) == gone


# ---- gradual pruning


def pruned(every: int, sparsity: float, steps: int) -> tuple[Any, sk.Sparsifier]:
    torch.manual_seed(0)
    method = sk.methods.gmp(sparsity=sparsity, total_steps=steps, every=every)
    model = sk.sparsify(network(), method)
    return model, sk.Sparsifier(model, torch.optim.Adam(model.parameters(), lr=0.01), method)


def test_gmp_gives_memory_back_as_it_prunes() -> None:
    model, optimizer = pruned(2, 0.98, 80)
    average = AveragedModel(model)
    optimizer.engine.followers = sk.Sparsifier(
        model, optimizer.optimizer, optimizer.method, followers=[average]
    ).followers
    x, y = torch.randn(16, 30), torch.randint(5, (16,))
    sizes = [[site.active.capacity for site in optimizer.sites]]
    for _ in range(80):
        train(model, optimizer, x, y, 1)
        average.update_parameters(model)
        now = [site.active.capacity for site in optimizer.sites]
        assert optimizer.reallocated == (now != sizes[-1])
        sizes.append(now)
        for site, capacity in zip(optimizer.sites, now, strict=True):
            values = site.module.values
            assert values.shape == values.grad.shape == (capacity,)
            assert {len(s) for s in optimizer.state[values].values() if s.dim()} == {capacity}
        assert sum(site.nnz for site in optimizer.sites) > sum(now) / 50**0.25
    assert sizes[-1] == [site.nnz for site in optimizer.sites] == [24, 16, 2]
    assert 4 <= len({tuple(layers) for layers in sizes}) <= 1 + 5
    average(x)


def test_resuming_gives_back_what_had_been_given_back() -> None:
    model, optimizer = pruned(2, 0.9, 40)
    x, y = torch.randn(16, 30), torch.randint(5, (16,))
    train(model, optimizer, x, y, 40)
    resumed, continuation = pruned(2, 0.9, 40)
    resumed.load_state_dict(model.state_dict())
    continuation.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [site.active.capacity for site in continuation.sites] == [site.nnz for site in optimizer.sites]
    train(model, optimizer, x, y, 1)
    train(resumed, continuation, x, y, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


def test_gmp_compiles_a_few_times() -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    method = sk.methods.gmp(sparsity=0.98, total_steps=40, every=1)
    model = sk.sparsify(nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5)), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.01), method)
    counter = CompileCounterWithBackend("aot_eager")
    compiled: Any = torch.compile(model, backend=counter, fullgraph=True)
    x, y = torch.randn(8, 30), torch.randint(5, (8,))
    reallocated, kernels = 0, []
    for _ in range(40):
        optimizer.zero_grad()
        cross_entropy(compiled(x), y).backward()
        optimizer.step()
        reallocated += optimizer.reallocated
        kernels.append([layer.kernel for layer in (model[0], model[2])])
    assert reallocated >= 3
    changes = sum(a != b for a, b in itertools.pairwise(kernels))
    assert counter.frame_count <= 2 + reallocated + changes

"""SFP: filters are zeroed, learn on, and are gone in the end."""

import copy
from typing import Any

import pytest
import torch
from support.residual import samples
from support.trajectories import EPOCH, KINDS, OPTIMIZERS, STEPS, batches, network, prepare, step
from torch import Tensor
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.models import build
from sparsekern.sparsity.parts.distributions import apportion
from sparsekern.topology import nnz_at


def zero_smallest(model: Any, names: list[str], sparsity: float) -> dict[str, Tensor]:
    """Zeroes the filters of the smallest norms of every layer; returns which stay."""
    weights = [model.get_submodule(name).weight.detach() for name in names]
    filters = [len(weight) for weight in weights]
    marks = {}
    counts = apportion(filters, filters, nnz_at(sparsity, sum(filters)))
    for name, weight, count in zip(names, weights, counts, strict=True):
        stays = weight.flatten(1).norm(dim=1).argsort(descending=True)[:count]
        marks[name] = torch.zeros(len(weight), dtype=torch.bool)
        marks[name][stays] = True
        weight[~marks[name]] = 0
    return marks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["momentum", "adam-foreach"])
def test_it_is_dense_training_with_filters_zeroed_at_every_epoch(kind: str, optimizer: str) -> None:
    model, sparsifier = prepare(kind, "sfp", OPTIMIZERS[optimizer])
    torch.manual_seed(3)
    twin = network(kind)
    inner = OPTIMIZERS[optimizer](twin.parameters())
    names = [site.name for site in sparsifier.sites]
    assert names == (["0", "3", "6", "7"] if kind == "conv" else ["0", "2"])
    marks: dict[str, Tensor] = {}
    returned = 0
    for t, batch in enumerate(batches(kind), 1):
        assert all(site.nnz == site.size for site in sparsifier.sites)
        step(model, sparsifier, batch)
        inner.zero_grad()
        cross_entropy(twin(batch[0]), batch[1]).backward()
        inner.step()
        if t % 4 == 0:
            marks = zero_smallest(twin, names, 0.7)
            assert all(site.facts["zeroed_filters"] == int((~marks[site.name]).sum()) for site in sparsifier.sites)
        for site in sparsifier.sites:
            torch.testing.assert_close(site.weight, twin.get_submodule(site.name).weight.detach())
            if t % 4 == 1 and t > 1:  # a filter that was zeroed lives again
                returned += int(site.weight[~marks[site.name]].flatten(1).any(1).sum())
    assert returned > 10
    for site in sparsifier.sites:
        expected = marks[site.name].reshape(-1, *[1] * (len(site.shape) - 1)).expand(site.shape)
        assert torch.equal(site.active.mask(), expected)
        assert not site.weight[~marks[site.name]].any()
        weight = twin.get_submodule(site.name).weight
        for key, value in inner.state[weight].items():  # nothing of the optimizer is reset
            torch.testing.assert_close(sparsifier.state[site.module.stored][key], value)


@pytest.mark.parametrize("name", ["vgg16-quarter", "resnet20"])
def test_shrink_makes_the_smaller_network(name: str) -> None:
    torch.manual_seed(0)
    data = samples(4, 8, (3, 32, 32))
    model: Any = build(name, (3, 32, 32), 5, 0.5).double()
    before = sum(p.numel() for p in model.parameters())
    method = sk.methods.sfp(sparsity=0.4, total_steps=4, steps_per_epoch=2)
    model = sk.sparsify(model, method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), method)
    for x, y in data:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    filters = sum(site.shape[0] for site in optimizer.sites)
    left = sum(int((site.active.row_ptr.diff() > 0).sum()) for site in optimizer.sites)
    assert left == nnz_at(0.4, filters)
    small = sk.shrink(model, data[0][0][:2])
    assert sum(p.numel() for p in small.parameters()) < (0.5 if name == "vgg16-quarter" else 0.75) * before
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(data[0][0]), model.eval()(data[0][0]))


def test_a_run_may_end_within_an_epoch_and_be_frozen_then() -> None:
    method = sk.methods.sfp(sparsity=0.8, total_steps=STEPS, steps_per_epoch=EPOCH + 2)
    torch.manual_seed(0)
    model = sk.sparsify(network("linear"), method)
    optimizer = sk.Sparsifier(model, OPTIMIZERS["sgd"](model.parameters()), method)
    for batch in batches("linear"):
        step(model, optimizer, batch)
    assert [int((site.active.row_ptr.diff() > 0).sum()) for site in optimizer.sites] == [4, 3]
    again = copy.deepcopy(optimizer)
    again.freeze()
    assert [site.module.values.numel() for site in again.sites] == [4 * 12, 3 * 20]

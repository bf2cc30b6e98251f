"""Gradual magnitude pruning: its schedule, exactly, and never backwards."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.sparsity import Method
from sparsekern.sparsity.parts import views
from sparsekern.sparsity.parts.schedules import Cadence, cubic
from sparsekern.topology import nnz_at


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)).double()


def test_gmp_is_monotone_and_follows_the_schedule() -> None:
    torch.manual_seed(0)
    method = sk.methods.gmp(sparsity=0.9, total_steps=40, steps_per_epoch=4)
    model = sk.sparsify(network(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    x, y = torch.randn(32, 10, dtype=torch.double), torch.randint(4, (32,))
    masks = [site.active.mask() for site in optimizer.sites]
    for t in range(40):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        for site, old in zip(optimizer.sites, masks, strict=True):
            assert not (site.active.mask() & ~old).any()
        masks = [site.active.mask() for site in optimizer.sites]
        expected = 0.9 * (1 - (1 - min((t // 4 * 4) / 32, 1)) ** 3)
        assert optimizer.report().sparsity == pytest.approx(expected, abs=1 / sum(s.size for s in optimizer.sites))
    assert [site.nnz for site in optimizer.sites] == pytest.approx([16, 19.2, 4.8], abs=1)


@pytest.mark.filterwarnings("ignore:layer collapse")
def test_gmp_is_exact_where_rounding_would_give_a_layer_weights_back() -> None:
    # Fewer weights in all can be more for one of the layers: the paradox of largest remainders.
    shapes = [(25, 38), (38, 27), (5, 2), (36, 3), (15, 19), (33, 23)]
    model = nn.ModuleList(nn.Linear(cols, rows, bias=False) for rows, cols in shapes)
    method = sk.methods.gmp(sparsity=0.95, total_steps=21, every=1, stop=20 / 21)
    model = sk.sparsify(model, method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.0), method)
    size = sum(rows * cols for rows, cols in shapes)
    for step in range(21):
        optimizer.step()
        assert sum(site.nnz for site in optimizer.sites) == nnz_at(method.sparsity(step), size)


def test_a_sparsity_that_is_final_between_two_changes_is_reached() -> None:
    method = Method("late", cubic(0.9, 5), when=Cadence(4), view=views.layer)
    model = sk.sparsify(network(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    for _ in range(9):
        optimizer.step()
    size = sum(site.size for site in optimizer.sites)
    assert sum(site.nnz for site in optimizer.sites) == nnz_at(0.9, size)

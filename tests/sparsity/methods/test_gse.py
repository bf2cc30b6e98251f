"""The subsets that the four heuristics draw, by laws written out for small layers."""

from itertools import product
from typing import Any

import pytest
import torch
from support.laws import chi_square, chi_square_bound, successive_law
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.sparsity import growth
from sparsekern.sparsity.growth.gradients import ArmedStep

GSE = ["gse_random", "gse_synflow", "gse_grabo", "gse_graest"]
DRAWS = 800


class Tiny(nn.Module):
    """A layer of few weights between others."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "linear":
            self.first, self.layer = nn.Linear(3, 3), nn.Linear(3, 2, bias=False)
            self.shape: tuple[int, ...] = (3,)
        else:  # two groups, two positions of the kernel, three positions of the output
            self.first, self.layer = (
                nn.Conv2d(1, 2, 1),
                nn.Conv2d(2, 4, (1, 2), stride=(1, 2), padding=(0, 1), groups=2),
            )
            self.shape = (1, 1, 4)
        self.last = nn.Linear(2 if kind == "linear" else 4, 3)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Input and output of the layer, and the network's output."""
        h = self.first(x).tanh()
        y = self.layer(h)
        return h, y, self.last(y.tanh() if y.dim() == 2 else y.tanh().mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)[2]


def armed(name: str, kind: str, batch: int = 2) -> tuple[Any, sk.Sparsifier, Tensor, Tensor]:
    """A network whose layer has two active weights, with the backward pass of an armed step done."""
    torch.manual_seed(4)
    method = sk.methods.get(name)(sparsity=0.5, total_steps=10, every=1)
    model = Tiny(kind).double()
    model.first.weight.data[0] *= 4  # so that the heuristics differ
    mask = torch.zeros_like(model.layer.weight, dtype=torch.bool)
    mask.view(-1)[[1, mask.numel() - 2]] = True
    sk.sparsify(model, method, masks={"layer": mask})
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.0), method)
    x, y = torch.randn(batch, *model.shape, dtype=torch.double), torch.randint(3, (batch,))
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        if optimizer.steps == 0:
            optimizer.step()
    return model, optimizer, x, y


def outer(rows: Tensor, cols: Tensor) -> Tensor:
    cols = torch.atleast_2d(cols)
    return (rows[:, None] * cols.repeat_interleave(len(rows) // len(cols), 0)).flatten().detach()


def pairs(name: str, kind: str, model: Any, x: Tensor, y: Tensor) -> list[Tensor]:
    """f_a g_b of every weight, flat, from the definitions; of gse_graest, for every choice of signs."""
    size = model.layer.weight.numel()
    if name == "gse_random":
        return [torch.ones(size)]
    h, output, logits = model.parts(x)
    (delta,) = torch.autograd.grad(cross_entropy(logits, y), output)
    if name == "gse_synflow" and kind == "linear":
        return [outer(model.last.weight.abs().sum(0), model.first.weight.abs().sum(1))]
    if name == "gse_synflow":
        return [outer(model.last.weight.abs().sum(0), model.first.weight.abs().reshape(2, 1).repeat(1, 2))]
    if kind == "linear":
        if name == "gse_grabo":
            return [outer(delta.abs().sum(0), h.abs().sum(0))]
        signs = [torch.tensor(s).double() for s in product((-1, 1), repeat=len(h))]
        return [outer((xi @ delta).abs(), (xi @ h).abs()) for xi in signs]
    if name == "gse_grabo":
        return [outer(delta.abs().sum((0, 2, 3)), h.abs().sum((0, 2, 3)).reshape(2, 1).repeat(1, 2))]
    # What the kernel sees at each of three output positions: [batch, group, tap, position].
    seen = nn.functional.pad(h, (1, 1)).unfold(3, 2, 2)[:, :, 0].transpose(2, 3)
    signs = [torch.tensor(s).double().reshape(-1, 3) for s in product((-1, 1), repeat=3 * len(h))]
    return [
        outer(torch.einsum("bcp,bp->c", delta[:, :, 0], xi).abs(), torch.einsum("bgtp,bp->gt", seen, xi).abs())
        for xi in signs
    ]


def drawn(name: str, optimizer: sk.Sparsifier, n: int) -> dict[tuple, int]:
    """How often each subset is proposed."""
    counts: dict[tuple, int] = {}
    (site,), grow = optimizer.sites, optimizer.method.grow
    if name == "gse_synflow":  # the same at every seed, and slow
        flow = growth.synaptic_flow([site], [0], optimizer.engine.gradients)
        grow = growth.sampled_gradient(lambda sites, seeds, passes: flow, 10)
    for seed in range(DRAWS):
        ((coordinates, _),) = grow.candidates([site], [n], [None], [seed], optimizer.engine.gradients)
        key = tuple(coordinates.tolist())
        counts[key] = counts.get(key, 0) + 1
    return counts


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("name", GSE)
def test_subsets_follow_the_law_of_successive_draws(name: str, kind: str) -> None:
    model, optimizer, x, y = armed(name, kind)
    absent = (~model.layer.topology.mask()).flatten().nonzero().flatten().tolist()
    weights = pairs(name, kind, model, x, y)
    law: dict[tuple, float] = {}
    for weight in weights:
        for key, p in successive_law({i: float(weight[i]) for i in absent}, 2).items():
            law[key] = law.get(key, 0) + p / len(weights)
    counts = drawn(name, optimizer, 2)
    assert chi_square(counts, law) < chi_square_bound(len(law) - 1)
    if name != "gse_random":
        even = dict.fromkeys(law, 1 / len(law))
        assert chi_square(counts, even) > chi_square_bound(len(law) - 1), "the test could not tell laws apart"


@pytest.mark.parametrize("name", ["gse_grabo", "gse_graest"])
def test_one_row_is_drawn_in_proportion_to_its_gradient(name: str) -> None:
    model, optimizer, *_ = armed(name, "linear", batch=1)
    (site,) = optimizer.sites
    gradient = site.dense_gradient().abs().flatten()
    absent = (~model.layer.topology.mask()).flatten().nonzero().flatten().tolist()
    law = {(i,): float(gradient[i] / gradient[absent].sum()) for i in absent}
    assert chi_square(drawn(name, optimizer, 1), law) < chi_square_bound(len(law) - 1)


def test_dead_units_are_drawn_last_and_reported() -> None:
    """Of four columns two are dead: what the subset takes of them is uniform, and counted."""
    layer = sk.SparseLinear(4, 3, topology=sk.Topology.from_mask(torch.eye(3, 4, dtype=torch.bool)))
    site = sk.sparsity.Site("layer", layer)
    site.arm()
    site.probe.records.append((torch.tensor([[1.0, 0, 2, 0]]), torch.tensor([[1.0, 3, 2]])))
    grow = growth.sampled_gradient(growth.gradient_bound, 1)
    counts: dict[tuple, int] = {}
    for seed in range(600):
        ((coordinates, _),) = grow.candidates([site], [5], [None], [seed], ArmedStep(layer))
        assert site.facts["sampled_uniformly"] == 1
        dead = [i for i in coordinates.tolist() if i % 4 in (1, 3)]
        assert len(dead) == 1
        counts[tuple(dead)] = counts.get(tuple(dead), 0) + 1
    even = {(i,): 1 / 5 for i in (1, 3, 7, 9, 11)}
    assert chi_square(counts, even) < chi_square_bound(4)


def test_weights_spanning_twelve_orders_terminate_and_are_reported() -> None:
    """One row in forty carries all but 1e-12 of the weight, and half of the layer is asked for."""
    layer = sk.SparseLinear(30, 40, sparsity=0.9)
    site = sk.sparsity.Site("layer", layer)
    site.arm()
    delta = torch.full((1, 40), 1e-12)
    delta[0, 7] = 1
    site.probe.records.append((torch.rand(1, 30) + 0.5, delta))
    n = 500
    grow = growth.sampled_gradient(growth.gradient_bound, 1)
    ((coordinates, _),) = grow.candidates([site], [n], [None], [0], ArmedStep(layer))
    likely = int((coordinates // 30 == 7).sum())
    assert coordinates.unique().numel() == n
    assert not layer.topology.mask().flatten()[coordinates].any()
    assert likely > 20
    assert n - 30 <= site.facts["sampled_uniformly"] < n


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


@pytest.mark.parametrize("multiplier", [1, 2.5, 10])
def test_the_subset_is_shared_by_layer_size(multiplier: float) -> None:
    method = sk.methods.gse_grabo(sparsity=0.9, total_steps=100, every=1, multiplier=multiplier, share="erk")
    model = sk.sparsify(network(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    count = 8
    quotas = method.grow.quotas(optimizer.sites, [count, 0, 0], False)
    total = sum(site.size for site in optimizer.sites)
    assert sum(quotas) == int(multiplier * count)
    for quota, site in zip(quotas, optimizer.sites, strict=True):
        assert abs(quota - multiplier * count * site.size / total) < 1


@pytest.mark.parametrize("name", GSE)
def test_no_more_is_exchanged_than_the_subset_holds(name: str) -> None:
    """At 4 % sparsity fewer weights are absent than a fifth of the active ones: all of these grow."""
    torch.manual_seed(0)
    method = sk.methods.get(name)(sparsity=0.04, total_steps=100, every=1)
    model = sk.sparsify(network(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    x, y = torch.randn(32, 10), torch.randint(4, (32,))
    for _ in range(2):
        before = [site.active.mask() for site in optimizer.sites]
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    absent = sum(int((~mask).sum()) for mask in before)
    grown = sum(int((site.active.mask() & ~mask).sum()) for site, mask in zip(optimizer.sites, before, strict=True))
    assert grown == absent == 16
    assert sum(site.nnz for site in optimizer.sites) == 384


def test_synflow_says_what_it_misses() -> None:
    method = sk.methods.gse_synflow(sparsity=0.5, total_steps=10, every=1)
    model = sk.sparsify(nn.Sequential(network()), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    optimizer.step()
    model[0](torch.randn(4, 10)).sum().backward()
    with pytest.raises(RuntimeError, match="did not call the model with a tensor"):
        optimizer.step()


def test_the_model_is_watched_in_armed_steps_only() -> None:
    method = sk.methods.gse_synflow(sparsity=0.5, total_steps=20, every=3)
    model = sk.sparsify(network(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    watched = []
    for _ in range(7):
        watched.append(len(model._forward_pre_hooks))
        optimizer.zero_grad()
        model(torch.randn(4, 10)).square().sum().backward()
        optimizer.step()
    assert watched == [0, 0, 0, 1, 0, 0, 1]
    assert not model._forward_pre_hooks

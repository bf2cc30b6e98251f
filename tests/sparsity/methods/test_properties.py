"""Properties of the methods that their papers state, on numbers worked out by hand or by brute force."""

import copy
import math

import pytest
import torch
from support.networks import convnet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.sparsity import growth
from sparsekern.sparsity.engine import drop_and_grow
from sparsekern.sparsity.growth.gradients import ArmedStep
from sparsekern.sparsity.methods.gse import CHANGES as GSE_CHANGES
from sparsekern.sparsity.parts import scores, views
from sparsekern.sparsity.parts.schedules import cosine, cubic

GSE = ["gse_random", "gse_synflow", "gse_grabo", "gse_graest"]
DYNAMIC = {name: {"every": 1} for name in ("set", "rigl", *GSE)}


def network(kind: str = "linear") -> nn.Sequential:
    if kind == "conv":
        return convnet().double()
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)).double()


def armed(name: str, kind: str = "linear", **options: object) -> tuple[nn.Module, sk.Sparsifier, Tensor, Tensor]:
    """A sparse network at step 1, where the pattern is about to change, with the backward pass of that step done."""
    torch.manual_seed(0)
    options = {**DYNAMIC.get(name, {}), **options}
    method = sk.methods.get(name)(sparsity=0.6, total_steps=100, **options)
    model = sk.sparsify(network(kind), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method)
    shape = (3, 6, 6) if kind == "conv" else (10,)
    x, y = torch.randn(32, *shape, dtype=torch.double), torch.randint(4, (32,))
    for _ in range(2):
        if optimizer.steps == 1:
            break
        cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    cross_entropy(model(x), y).backward()
    return model, optimizer, x, y


def dense_gradients(model: nn.Module, optimizer: sk.Sparsifier, x: Tensor, y: Tensor) -> list[Tensor]:
    """dL/dW of every layer by plain autograd on the dense twin."""
    twin = sk.densify(copy.deepcopy(model))
    loss = cross_entropy(twin(x), y)
    return list(torch.autograd.grad(loss, [twin.get_submodule(site.name).weight for site in optimizer.sites]))


# ---- schedules


def test_cubic_schedule_of_dpf_and_gmp() -> None:
    schedule = cubic(0.9, stop=10)
    assert schedule(5) == pytest.approx(0.7875)
    assert schedule(1) == pytest.approx(0.2439)
    assert schedule(0) == 0
    assert schedule(10) == schedule(11) == pytest.approx(0.9)


def test_cosine_rate_of_gse() -> None:
    rate = cosine(0.2, stop=100)
    assert [rate(t) for t in (0, 50, 100, 150)] == pytest.approx([0.2, 0.1, 0, 0])


@pytest.mark.parametrize(("steps", "expected"), [(78200, GSE_CHANGES), (10000, GSE_CHANGES), (1600, GSE_CHANGES)])
def test_gse_makes_the_papers_number_of_changes(steps: int, expected: int) -> None:
    method = sk.methods.gse_grabo(sparsity=0.9, total_steps=steps)
    assert expected <= method.when.count(steps) <= 1.35 * expected
    assert bool(method.notes) == (method.when.period != 1000)


# ---- scores before training


def test_snip_scores() -> None:
    assert scores.saliency(scores.Scored(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 1.0]))).tolist() == [3, 2]


def test_snip_keeps_the_largest_products_over_the_network() -> None:
    model = network()
    data = [(torch.randn(8, 10, dtype=torch.double), torch.randint(4, (8,))) for _ in range(3)]
    linears = [m for m in model if isinstance(m, nn.Linear)]
    loss = sum(cross_entropy(model(x), y) for x, y in data) / 3
    grads = torch.autograd.grad(loss, [m.weight for m in linears])
    flat = torch.cat([(m.weight * g).abs().flatten() for m, g in zip(linears, grads, strict=True)])
    keep = sk.topology.nnz_at(0.8, flat.numel())
    expected = flat >= flat.topk(keep).values[-1]
    sk.sparsify(model, sk.methods.snip(sparsity=0.8), batches=data, loss=cross_entropy)
    got = torch.cat([m.topology.mask().flatten() for m in model if isinstance(m, sk.SparseLinear)])
    assert torch.equal(got, expected)


def test_magnitude_init_is_global() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(100)
    sk.sparsify(model, sk.methods.magnitude_init(sparsity=0.8))
    assert [m.topology.nnz for m in model if isinstance(m, sk.SparseLinear)] == [80, 0, 0]


def test_all_equal_scores_prune_exactly_the_first_indices_stay() -> None:
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    sk.sparsify(model, sk.methods.magnitude_init(sparsity=0.5))
    masks = torch.cat([m.topology.mask().flatten() for m in model if isinstance(m, sk.SparseLinear)])
    assert torch.equal(masks, torch.arange(masks.numel()) < masks.numel() // 2)


# ---- changes of pattern


def test_set_and_rigl_drop_identical_sets() -> None:
    # The layers are the same before the change; what is dropped is the smallest |w| of each layer.
    _, optimizer, _, _ = armed("rigl", rate=0.4)
    for site in optimizer.sites:
        weight = site.weight
        count = math.floor(optimizer.method.grow.rate(1) * site.nnz)
        by_hand = torch.ones(site.nnz, dtype=torch.bool)
        by_hand[weight.abs().argsort()[:count]] = False
        for name in ("rigl", "set"):
            method = sk.methods.get(name)(sparsity=0.6, total_steps=100, every=1)
            counts = [math.floor(optimizer.method.grow.rate(1) * s.nnz) for s in optimizer.sites]
            kept, _ = drop_and_grow._keep(method, optimizer.sites, [s.nnz for s in optimizer.sites], counts)
            assert torch.equal(kept[optimizer.sites.index(site)], by_hand)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_rigl_grows_the_largest_gradients_outside_the_kept_set(kind: str) -> None:
    model, optimizer, x, y = armed("rigl", kind, rate=0.4)
    gradients = dense_gradients(model, optimizer, x, y)
    before = [(site.active.mask(), site.active.dense(site.module.values.detach())) for site in optimizer.sites]
    optimizer.step()
    for site, gradient, (mask, weight) in zip(optimizer.sites, gradients, before, strict=True):
        nnz = int(mask.sum())
        count = math.floor(cosine(0.4, 75)(1) * nnz)
        kept = torch.zeros_like(mask).flatten()
        active = mask.flatten().nonzero().flatten()
        kept[active[weight.flatten()[active].abs().argsort(descending=True)[: nnz - count]]] = True
        candidates = gradient.abs().flatten().masked_fill(kept, -1)
        expected = kept.clone()
        expected[candidates.argsort(descending=True, stable=True)[:count]] = True
        assert torch.equal(site.active.mask().flatten(), expected)
        # The update took the step's place: kept weights are untouched, returned ones keep their value.
        stays = site.active.mask() & mask
        after = site.active.dense(site.module.values.detach())
        assert torch.equal(after[stays], weight[stays])
        assert bool((after[site.active.mask() & ~mask] == 0).all())


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("name", GSE)
def test_gse_with_every_absent_weight_as_subset_is_global_rigl(name: str, kind: str) -> None:
    model, optimizer, x, y = armed(name, kind, multiplier=1e6)
    gradients = dense_gradients(model, optimizer, x, y)
    masks = [site.active.mask() for site in optimizer.sites]
    step_of = optimizer.optimizer.step
    weights = []

    def record(closure: object = None) -> object:
        result = step_of()
        weights.extend(site.active.dense(site.module.values.detach()) for site in optimizer.sites)
        return result

    optimizer.optimizer.step = record  # type: ignore[method-assign]
    optimizer.step()
    active = torch.cat([m.flatten() for m in masks])
    count = math.floor(optimizer.method.grow.rate(1) * int(active.sum()))
    magnitude = torch.cat([w.abs().flatten() for w in weights])
    gradient = torch.cat([g.abs().flatten() for g in gradients])
    expected = active.clone()
    expected[magnitude.masked_fill(~active, torch.inf).argsort()[:count]] = False
    expected[gradient.masked_fill(active, -1).topk(count).indices] = True
    got = torch.cat([site.active.mask().flatten() for site in optimizer.sites])
    assert torch.equal(got, expected)


def test_gse_random_with_multiplier_one_ignores_gradients() -> None:
    patterns = []
    for scale in (1.0, -3.0):
        _, optimizer, _, _ = armed("gse_random", multiplier=1)
        for site in optimizer.sites:
            site.probe.records[:] = [(h * scale, d.flip(0)) for h, d in site.probe.records]
        before = [site.active.mask() for site in optimizer.sites]
        rewirings = drop_and_grow.drop_and_grow(
            optimizer.method, optimizer.sites, 1, torch.Generator().manual_seed(7), optimizer.engine.gradients
        )
        patterns.append([rewiring.grow for rewiring in rewirings])
        total = sum(site.size for site in optimizer.sites)
        grown = sum(rewiring.grow.numel() for rewiring in rewirings)
        for site, (_, grow, _), mask in zip(optimizer.sites, rewirings, before, strict=True):
            assert not mask.flatten()[grow].any()
            assert abs(grow.numel() - grown * site.size / total) < 1
    assert all(torch.equal(a, b) for a, b in zip(*patterns, strict=True))


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("name", list(DYNAMIC))
def test_changes_keep_the_count_and_grow_at_zero(name: str, kind: str) -> None:
    _, optimizer, _, _ = armed(name, kind)
    counts = [site.nnz for site in optimizer.sites]
    before = [site.active.mask() for site in optimizer.sites]
    optimizer.step()
    assert optimizer.rewired
    assert sum(site.nnz for site in optimizer.sites) == sum(counts)
    if not name.startswith("gse"):
        assert [site.nnz for site in optimizer.sites] == counts
    for site, mask in zip(optimizer.sites, before, strict=True):
        grown = (site.active.mask() & ~mask).flatten()[site.active.coordinates()]
        assert grown.any() or mask.all()
        assert bool((site.weight[grown] == 0).all())
        momentum = optimizer.state[site.module.values]["momentum_buffer"]
        assert bool((momentum[: site.nnz][grown] == 0).all())
        assert bool((momentum[site.nnz :] == 0).all())
        assert bool((site.module.values[site.nnz :] == 0).all())


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_grabo_subset_gradients_equal_the_dense_ones(kind: str) -> None:
    model, optimizer, x, y = armed("gse_grabo", kind)
    for site, gradient in zip(optimizer.sites, dense_gradients(model, optimizer, x, y), strict=True):
        coordinates = torch.randperm(site.size)[:40]
        torch.testing.assert_close(site.probe.gradient_at(coordinates), gradient.flatten()[coordinates])
        torch.testing.assert_close(site.dense_gradient(), gradient)


def test_grabo_guides_by_the_bound() -> None:
    """B = 1: P = |gradient| / sum; B = 2 with cancelling rows: gradient 0, bound 4."""
    layer = sk.SparseLinear(2, 2, topology=sk.Topology.from_mask(torch.zeros(2, 2, dtype=torch.bool))).double()
    for h, delta, product, total in (
        ([[1, 2]], [[3, 1]], [[3, 6], [1, 2]], 12),
        ([[1, 0], [1, 0]], [[1, 0], [-1, 0]], [[4, 0], [0, 0]], 4),
    ):
        site = sk.sparsity.Site("layer", layer)
        site.arm()
        site.probe.records.append((torch.tensor(h).double(), torch.tensor(delta).double()))
        ((rows, cols),) = growth.gradient_bound([site], [0], ArmedStep(layer))
        assert torch.outer(rows, cols).tolist() == product
        assert float(torch.outer(rows, cols).sum()) == total
    assert float(site.dense_gradient().abs().sum()) == 0


def test_several_backward_passes_add_up() -> None:
    model, optimizer, x, y = armed("gse_grabo")
    whole = [site.dense_gradient() for site in optimizer.sites]
    optimizer.zero_grad()
    for part in range(2):
        rows = slice(16 * part, 16 * part + 16)
        (cross_entropy(model(x[rows]), y[rows]) / 2).backward()
    assert [site.probe.samples for site in optimizer.sites] == [32, 32, 32]
    for site, gradient in zip(optimizer.sites, whole, strict=True):
        torch.testing.assert_close(site.dense_gradient(), gradient)


def test_nan_gradient_is_refused_and_nothing_changes() -> None:
    model, optimizer, x, _ = armed("rigl")
    optimizer.zero_grad()
    (model(x).sum() * float("nan")).backward()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((ValueError, RuntimeError), match="NaN"):
        optimizer.step()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_views_select_exactly_with_minimum() -> None:
    values = [torch.tensor([5.0, 4.0, 3.0]), torch.tensor([0.1, 0.2])]
    assert [m.tolist() for m in views.network.largest(values, [2, 0], 0)] == [[True, True, False], [False, False]]
    assert [m.tolist() for m in views.network.largest(values, [2, 0], 1)] == [[True, False, False], [False, True]]
    assert [m.tolist() for m in views.layer.largest(values, [1, 1])] == [[True, False, False], [False, True]]

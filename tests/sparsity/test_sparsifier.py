"""The engine as the optimizer's stand-in."""

import copy
import warnings
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from support.networks import NETWORKS, layers, network, start, train
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

import sparsekern as sk
from sparsekern.sparsity.parts import distributions


def test_optimizer_must_be_built_after_sparsify() -> None:
    model = network()
    method = sk.methods.random(sparsity=0.5)
    early = torch.optim.SGD(model.parameters(), lr=0.1)
    sk.sparsify(model, method)
    with pytest.raises(ValueError, match="built before sparsify"):
        sk.Sparsifier(model, early, method)
    with pytest.raises(ValueError, match="no sparse layer"):
        sk.Sparsifier(network(), early, method)


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam", "Muon"])
def test_refused_optimizers(name: str) -> None:
    model = sk.sparsify(network(), 0.5)
    parameters = [p for p in model.parameters() if p.dim() == 2] if name == "Muon" else list(model.parameters())
    if name == "Muon":
        parameters = [nn.Parameter(torch.zeros(2, 2))]
    optimizer = getattr(torch.optim, name)(parameters, lr=0.1)
    with pytest.raises(ValueError, match=f"{name} keeps no state per weight"):
        sk.Sparsifier(model, optimizer, sk.methods.random(sparsity=0.5))


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_layers_without_weights_and_without_gradient() -> None:
    for name in distributions.NAMES:
        model = sk.sparsify(nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 5), nn.Linear(5, 5)), 0.8, distribution=name)
        assert [layer.topology.nnz for layer in layers(model)] == [0, 0, 5]
    torch.manual_seed(0)
    data = [(torch.randn(16, 30), torch.randint(5, (16,)))]
    method = sk.methods.snip(sparsity=0.8)
    model = sk.sparsify(Branches(), method, batches=data, loss=cross_entropy)
    assert model.idle.topology.nnz == 0


def test_conversions_keep_what_is_frozen() -> None:
    dense = network()
    dense[0].weight.requires_grad_(False)
    dense[2].bias.requires_grad_(False)
    expected = [parameter.requires_grad for parameter in dense.parameters()]
    model = sk.sparsify(sk.sparsify(dense, 0.5), 0.5)
    assert [parameter.requires_grad for parameter in model.parameters()] == expected
    assert [parameter.requires_grad for parameter in sk.densify(model).parameters()] == expected


def test_sparsify_says_what_it_takes() -> None:
    with pytest.raises(ValueError, match="a sparsity, or masks, got 'rigl'"):
        sk.sparsify(network(), "rigl")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="meta device"):
        sk.sparsify(network().to("meta"), 0.5)


class Branches(nn.Module):
    """Two linear layers of which `forward` uses the first, and a last one."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle, self.last = nn.Linear(30, 20), nn.Linear(30, 20), nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.used(x).relu())


@pytest.mark.parametrize("name", ["rigl", "gse_grabo"])
def test_layers_out_of_the_gradients_reach_keep_their_pattern(name: str) -> None:
    torch.manual_seed(0)
    method = sk.methods.get(name)(sparsity=0.8, total_steps=60, every=3)
    model = sk.sparsify(Branches(), method)
    first = model.idle.topology
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    train(model, optimizer, torch.randn(16, 30), torch.randint(5, (16,)), 4)
    assert optimizer.rewired
    assert model.idle.topology.same_pattern(first)
    assert [row["flips"] > 0 for row in optimizer.report().rows] == [True, False, True]
    train(model, optimizer, torch.randn(16, 30), torch.randint(5, (16,)), 2)
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="no backward pass reached"):
        optimizer.step()


@pytest.mark.parametrize("name", ["gmp", "rigl", "gse_grabo"])
def test_frozen_layers_do_not_change(name: str) -> None:
    torch.manual_seed(0)
    method = sk.methods.get(name)(sparsity=0.8, total_steps=60, steps_per_epoch=3, every=3)
    dense = network()
    for parameter in dense[0].parameters():
        parameter.requires_grad_(False)
    model = sk.sparsify(dense, method)
    before = model[0].topology, model[0].values.clone()
    inner = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    optimizer = sk.Sparsifier(model, inner, method)
    train(model, optimizer, torch.randn(16, 30), torch.randint(5, (16,)), 4)
    assert optimizer.rewired
    assert model[0].topology.same_pattern(before[0])
    assert torch.equal(model[0].values, before[1])


@pytest.mark.parametrize("kind", NETWORKS)
def test_copies_of_an_armed_model_record_nothing(kind: str) -> None:
    model, optimizer, x, y = start(kind=kind)
    train(model, optimizer, x, y, 3)
    assert all(layer.probe is not None for layer in layers(model))
    assert all(layer.probe is None for layer in layers(copy.deepcopy(model)))


@pytest.mark.parametrize("kind", NETWORKS)
def test_followers_follow_and_stale_ones_raise(kind: str) -> None:
    model, optimizer, x, y = start(kind=kind)
    method = optimizer.method
    average = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    optimizer = sk.Sparsifier(model, optimizer.optimizer, method, followers=[average])
    dense = {site.name: site.active.dense(site.module.values.detach()) for site in optimizer.sites}
    for t in range(8):
        train(model, optimizer, x, y, 1)
        average.update_parameters(model)
        for site in optimizer.sites:
            mask = site.active.mask()
            now = site.active.dense(site.module.values.detach())
            # The first update copies; a grown weight starts its average at 0.
            dense[site.name] = now if t == 0 else 0.5 * dense[site.name] * mask + 0.5 * now
            copy_of = average.module.get_submodule(site.name)
            assert copy_of.topology.same_pattern(site.active)
            torch.testing.assert_close(copy_of.topology.dense(copy_of.values.detach()), dense[site.name])
    stranger = copy.deepcopy(model)
    train(model, optimizer, x, y, 3)
    with pytest.raises(ValueError, match="another pattern"):
        sk.Sparsifier(model, optimizer.optimizer, method, followers=[stranger])
    follower = copy.deepcopy(model)
    optimizer = sk.Sparsifier(model, optimizer.optimizer, method, followers=[average, follower])
    train(model, optimizer, x, y, 3)
    follower.load_state_dict(stranger.state_dict())
    with pytest.raises(ValueError, match="missed a change"):
        train(model, optimizer, x, y, 1)


@pytest.mark.filterwarnings("ignore:layer collapse")
@pytest.mark.parametrize("kind", NETWORKS)
def test_overflow_swaps_the_parameter_and_keeps_training(kind: str) -> None:
    model, optimizer, x, y = start("gse_random", kind=kind, rate=1.0)
    for site in optimizer.sites:  # no room at all
        exact = site.active.with_capacity(site.nnz)
        site.module.values = nn.Parameter(site.module.values.detach()[: site.nnz].clone())
        site.module.set_topology(exact)
    inner = torch.optim.Adam(model.parameters(), lr=0.01)
    optimizer = sk.Sparsifier(model, inner, optimizer.method)
    old = [site.module.values for site in optimizer.sites]
    reallocated = 0
    for _ in range(8):
        train(model, optimizer, x, y, 1)
        reallocated += optimizer.reallocated
    assert reallocated >= 1
    held = [p for group in inner.param_groups for p in group["params"]]
    for site, before in zip(optimizer.sites, old, strict=True):
        assert any(p is site.module.values for p in held)
        state = inner.state[site.module.values]
        assert state["exp_avg"].shape == site.module.values.shape
        assert site.module.values is before or before not in inner.state
    before = layers(model)[-1].values.detach().clone()
    train(model, optimizer, x, y, 1)
    assert not torch.equal(before, layers(model)[-1].values)


def test_state_of_another_method_or_model_is_refused() -> None:
    model, optimizer, x, y = start()
    train(model, optimizer, x, y, 4)
    state = optimizer.state_dict()
    _, stranger, _, _ = start("gse_random")
    with pytest.raises(ValueError, match="expected the state of method gse_random, got gse_grabo"):
        stranger.load_state_dict(state)
    fresh, again, _, _ = start(seed=5)
    with pytest.raises(ValueError, match="before that of the sparsifier"):
        again.load_state_dict(state)
    fresh.load_state_dict(model.state_dict())
    again.load_state_dict(state)
    small = sk.sparsify(nn.Sequential(nn.Linear(30, 5)), optimizer.method)
    alone = sk.Sparsifier(small, torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9), optimizer.method)
    with pytest.raises(ValueError, match="sparse layers 0, 2, 4"):
        alone.load_state_dict(state)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_pattern_loaded_without_optimizer_state_is_refused(kind: str) -> None:
    model, optimizer, x, y = start(kind=kind)
    best = copy.deepcopy(model.state_dict())
    train(model, optimizer, x, y, 2)
    model.load_state_dict(best)  # the same pattern: as with a dense model
    train(model, optimizer, x, y, 5)
    state = optimizer.state_dict()
    now = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    with pytest.raises(RuntimeError, match="another pattern from a state dict"):
        train(model, optimizer, x, y, 1)
    model.load_state_dict(now)
    optimizer.load_state_dict(state)
    train(model, optimizer, x, y, 1)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(("name", "steps"), [("gse_grabo", 4), ("gse_grabo", 6), ("gse_synflow", 6)])
def test_model_and_optimizer_copy_together(name: str, steps: int, kind: str) -> None:
    """In an armed step, which is the seventh, too."""
    model, optimizer, x, y = start(name, kind=kind)
    torch.optim.lr_scheduler.StepLR(optimizer, 5)
    train(model, optimizer, x, y, steps)
    twin, its = copy.deepcopy((model, optimizer))
    for pair in ((model, optimizer), (twin, its)):
        train(*pair, x, y, 6)
    assert all(torch.equal(twin.state_dict()[key], tensor) for key, tensor in model.state_dict().items())
    assert its.optimizer is not optimizer.optimizer


def test_a_sparse_model_has_to_agree_with_the_method() -> None:
    model = sk.sparsify(network(), 0.5)
    with pytest.raises(ValueError, match=r"sparse already, with 1050 of 2100 weights; static starts with 105"):
        sk.sparsify(model, 0.95)
    with pytest.raises(ValueError, match="expected a Method"):
        sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), "rigl")  # type: ignore[arg-type]
    sk.sparsify(model, 0.5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_report_counts_flips_and_overlap(kind: str) -> None:
    model, optimizer, x, y = start("set", kind=kind)
    first = [site.active.mask() for site in optimizer.sites]
    train(model, optimizer, x, y, 7)
    before = [site.active.mask() for site in optimizer.sites]
    while not optimizer.rewired or optimizer.steps < 10:
        before = [site.active.mask() for site in optimizer.sites]
        train(model, optimizer, x, y, 1)
    for row, site, was, start_mask in zip(optimizer.report().rows, optimizer.sites, before, first, strict=True):
        now = site.active.mask()
        assert row["nnz"] == int(now.sum())
        assert row["flips"] >= int((now ^ was).sum())  # SET may drop and grow the same place
        assert row["iou_first"] == pytest.approx(float((now & start_mask).sum() / (now | start_mask).sum()))
        assert row["kernel"] in ("csr", "tiled", "dense", "masked")


def test_a_short_dynamic_run_warns() -> None:
    with pytest.warns(UserWarning, match="fewer than three times"):
        sk.methods.set(sparsity=0.5, total_steps=20, every=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sk.methods.set(sparsity=0.5, total_steps=50, every=10)


def test_dense_method_leaves_the_model_alone() -> None:
    model = network()
    method = sk.methods.dense()
    assert sk.sparsify(model, method) is model
    assert not layers(model)
    optimizer = sk.Sparsifier(model, torch.optim.Adam(model.parameters()), method)
    train(model, optimizer, torch.randn(4, 30), torch.randint(5, (4,)), 2)
    again = sk.Sparsifier(model, torch.optim.Adam(model.parameters()), method)
    again.load_state_dict(optimizer.state_dict())
    assert again.steps == 2


def test_a_report_has_full_names_aligned_columns_and_the_whole_model() -> None:
    names = ["encoder.layer.0.attention.self.query", "encoder.layer.10.attention.self.query"]
    model: Any = nn.Module()
    for name in names:
        model.register_module(name.replace(".", "_"), nn.Linear(40, 40))
    model.head = nn.Linear(40, 2)
    sk.sparsify(model, 0.9, exclude="head")
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), sk.methods.random(0.9))
    report = optimizer.report()
    absent, whole = 2 * 1440, 2 * 1640 + 82
    assert report.parameters == whole
    assert report.model_sparsity == pytest.approx(absent / whole)
    _, head, *lines = str(report).splitlines()
    assert [line.split()[0] for line in lines[:2]] == [name.replace(".", "_") for name in names]
    end = head.index("sparsity") + len("sparsity")
    for line, number in zip(lines, ("0.9000", "0.9000", "0.9000", f"{absent / whole:.4f}"), strict=False):
        assert line[:end].endswith(f" {number}")
    assert f"{whole - absent:,}" in lines[3]
    page = report._repr_html_()
    cells = [cell.text for cell in ElementTree.fromstring(f"<div>{page}</div>").iter("td")]
    assert len(cells) == 4 * 8
    assert cells[:4] == [names[0].replace(".", "_"), "40 x 40", "160", "0.9000"]

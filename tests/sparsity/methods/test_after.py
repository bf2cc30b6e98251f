"""Rounds of training, pruning and returning, against a dense network with masks that does the same."""

import copy
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.trajectories import CONV, KINDS, OPTIMIZERS, STEPS, batches, make, network, prepare, step
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

import sparsekern as sk
from sparsekern.nn import SparseLayer
from sparsekern.topology import nnz_at

ROUNDS = {  # by hand: steps of a round, sparsities, the step that is returned to
    "oneshot_ft": (16, (0.0, 0.7), None),
    "magnitude_after": (10, (0.0, 0.7), None),
    "lottery": (6, (0.0, 0.5, 0.7), 0),
    "rewind": (6, (0.0, 0.5, 0.7), 2),
}
OPTIONS: dict[str, dict[str, Any]] = {"rewind": {"step": 2}}


def begin(kind: str, name: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, sk.Sparsifier]:
    monkeypatch.setattr("support.trajectories.make", lambda name: make(name, **OPTIONS.get(name, {})))
    return prepare(kind, name, OPTIMIZERS[optimizer])


@pytest.fixture(params=["file", "memory"])
def kept_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Where what is returned to lies: in a file, or in memory, since there is too little room for the file."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if request.param == "memory":
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=8))
    return request.param


class Twin:
    """Dense weights that are zeroed after every step."""

    def __init__(self, model: nn.Module, names: list[str], optimizer: str, rounds: tuple) -> None:
        self.model, self.build = sk.densify(copy.deepcopy(model)), OPTIMIZERS[optimizer]
        self.optimizer = self.build(self.model.parameters())
        self.weights = [self.model.get_submodule(name).weight for name in names]
        self.masks = [torch.ones_like(weight, dtype=torch.bool) for weight in self.weights]
        self.length, self.levels, self.to = rounds
        self.steps, self.saved = 0, None
        self.note()

    def note(self) -> None:
        if self.steps == self.to:
            self.saved = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))

    def step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(batch[0]), batch[1])
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        now, rest = divmod(self.steps, self.length)
        if rest == 0 and now < len(self.levels):
            self.prune(nnz_at(self.levels[now], sum(weight.numel() for weight in self.weights)))
            if self.saved is not None:
                self.model.load_state_dict(self.saved[0])
                self.optimizer = self.build(self.model.parameters())
                self.optimizer.load_state_dict(copy.deepcopy(self.saved[1]))
        self.note()
        with torch.no_grad():
            for weight, mask in zip(self.weights, self.masks, strict=True):
                weight.mul_(mask)
        return loss.detach()

    def prune(self, count: int) -> None:
        sizes = [weight.numel() for weight in self.weights]
        scores = [w.detach().abs().masked_fill(~m, -1).flatten() for w, m in zip(self.weights, self.masks, strict=True)]
        flat = torch.zeros(sum(sizes), dtype=torch.bool)
        flat[torch.cat(scores).argsort(descending=True, stable=True)[:count]] = True
        self.masks = [part.view_as(w) for part, w in zip(flat.split(sizes), self.weights, strict=True)]


@pytest.mark.parametrize(("kind", "optimizer"), [*(("linear", name) for name in OPTIMIZERS), *CONV])
@pytest.mark.parametrize("name", ROUNDS)
def test_equals_a_masked_dense_network(name: str, kind: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sparsifier = begin(kind, name, optimizer, monkeypatch)
    twin = Twin(model, [site.name for site in sparsifier.sites], optimizer, ROUNDS[name])
    for batch in batches(kind):
        torch.testing.assert_close(step(model, sparsifier, batch), twin.step(batch))
        for site, weight, mask in zip(sparsifier.sites, twin.weights, twin.masks, strict=True):
            assert torch.equal(site.active.mask(), mask)
            torch.testing.assert_close(site.module.dense_weight().detach(), weight.detach())
            state = twin.optimizer.state[weight]
            assert sparsifier.state[site.parameter].keys() == state.keys()
            for key, value in sparsifier.state[site.parameter].items():
                if value is not None and value.dim() and isinstance(site.module, SparseLayer):
                    torch.testing.assert_close(value[: site.nnz], site.active.gather(state[key])[: site.nnz])
    for key, value in twin.model.state_dict().items():
        if key in model.state_dict():
            torch.testing.assert_close(model.state_dict()[key], value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["lottery", "rewind"])
@pytest.mark.usefixtures("kept_in")
def test_everything_returns(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sparsifier = begin(kind, name, "adam", monkeypatch)
    then, data = [], batches(kind)
    for t in range(13):
        if t == ROUNDS[name][2]:
            dense = sk.densify(copy.deepcopy(model))
            then = [copy.deepcopy(dense.state_dict()), len(sparsifier.optimizer.state)]
        if t in (6, 12):
            now = sk.densify(copy.deepcopy(model)).state_dict()
            masks = {f"{site.name}.weight": site.active.mask() for site in sparsifier.sites}
            assert all(torch.equal(now[key], value * masks.get(key, 1)) for key, value in then[0].items())
            assert len(sparsifier.optimizer.state) == then[1]
            assert sparsifier.rewired
        step(model, sparsifier, data[t])


def test_rounds_train_on_nonzeros_and_give_memory_back(
    monkeypatch: pytest.MonkeyPatch, kept_in: str, tmp_path: Path
) -> None:
    model, sparsifier = begin("conv", "lottery", "amsgrad", monkeypatch)
    average = AveragedModel(model)
    sparsifier.engine.followers = sk.Sparsifier(
        model, sparsifier.optimizer, sparsifier.method, followers=[average]
    ).followers
    for t, batch in enumerate(batches("conv")):
        step(model, sparsifier, batch)
        average.update_parameters(model)
        assert all(isinstance(site.module, SparseLayer) == (t >= 5) for site in sparsifier.sites)
        assert sparsifier.reallocated == (t in (5, 11))
    for site in sparsifier.sites:
        state = sparsifier.state[site.parameter]
        assert {tensor.numel() for tensor in state.values()} == {1, site.nnz}
        assert site.parameter.shape == (site.nnz,)
        assert all(t.untyped_storage().nbytes() == t.nbytes for t in (site.parameter, *state.values()))
        saved = sparsifier.state_dict()["snapshot"]["layers"][site.name]
        assert {tensor.numel() for tensor in (saved["places"], *saved["values"].values())} == {site.nnz}
        follower = average.module.get_submodule(site.name)
        assert follower.topology.same_pattern(site.active)  # type: ignore[operator, union-attr]
        in_memory = site.nnz * (8 + 8)  # the value to return to, and its place
        assert sparsifier.kept_bytes(site.module) == (0 if kept_in == "file" else in_memory)
    assert not list(tmp_path.iterdir())  # the file has no name


@pytest.mark.parametrize("at", [1, 2, 6, 7, 12, 15])
@pytest.mark.parametrize("name", ["magnitude_after", "lottery", "rewind"])
def test_resume_in_every_round(name: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = batches("conv")
    model, sparsifier = begin("conv", name, "momentum", monkeypatch)
    for t, batch in enumerate(data):
        if t == at:
            state = sparsifier.state_dict()
            saved = copy.deepcopy((model.state_dict(), state))
        step(model, sparsifier, batch)
    same(state["snapshot"], saved[1]["snapshot"])  # later returns leave it alone
    torch.manual_seed(99)
    resumed, continuation = begin("conv", name, "momentum", monkeypatch)
    resumed.load_state_dict(saved[0])
    continuation.load_state_dict(saved[1])
    for batch in data[at:]:
        step(resumed, continuation, batch)
    same(model.state_dict(), resumed.state_dict())
    same(sparsifier.state_dict(), continuation.state_dict())
    assert all(site.parameter.shape == (site.nnz,) for site in continuation.sites)


def test_compiled_code_is_compiled_once_more_in_each_round() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    torch.manual_seed(0)
    method = make("lottery")
    model = sk.sparsify(nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), method)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    optimizer = sk.Sparsifier(compiled, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method)
    for x, y in batches("linear"):
        step(compiled, optimizer, (x.float(), y))
    assert optimizer.sites[0].nnz < 96
    assert 2 <= counter.frame_count <= 3


def trained(name: str, model: nn.Module, sparsity: float, **options: Any) -> list[Tensor]:
    """The masks at the end of a run that leaves the weights as they are."""
    method = sk.methods.get(name)(sparsity=sparsity, total_steps=STEPS, **options)
    model = sk.sparsify(model, method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.0), method)
    for batch in batches("linear"):
        step(model, optimizer, batch)
    return [site.active.mask() for site in optimizer.sites]


@pytest.mark.parametrize("name", ROUNDS)
def test_edges(name: str) -> None:
    assert all(mask.all() for mask in trained(name, network("linear"), 0.0))
    equal = network("linear")
    for parameter in equal.parameters():
        nn.init.constant_(parameter, 0.5)
    flat = torch.cat([mask.flatten() for mask in trained(name, equal, 0.3)])
    assert torch.equal(flat, torch.arange(585) < nnz_at(0.3, 585))
    weak = network("linear")
    nn.init.constant_(weak[4].weight, 1e-9)
    with pytest.warns(UserWarning, match="layer collapse: 4 has no weight left"):
        assert not trained(name, copy.deepcopy(weak), 0.7)[2].any()
    masks = trained(name, weak, 0.7, min_per_layer=50)  # more than that layer has
    assert masks[2].all()
    assert sum(int(mask.sum()) for mask in masks) == nnz_at(0.7, 585)


@pytest.mark.parametrize("at", [3, 9])
def test_nothing_returns_once_it_is_frozen(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sparsifier = begin("linear", "lottery", "sgd", monkeypatch)
    bias = model[0].bias  # type: ignore[index]
    first = bias.detach().clone()
    for t, batch in enumerate(batches("linear")):
        if t == at:
            sparsifier.freeze()
        step(model, sparsifier, batch)
        assert torch.equal(bias, first) == (t == 5 < at)
        assert sparsifier.rewired == (t == 5 < at)


def same(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            same(first[key], second[key])
    elif isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, list | tuple):
        for a, b in zip(first, second, strict=True):
            same(a, b)
    else:
        assert first == second


def test_levels_of_the_rounds() -> None:
    def levels(name: str = "lottery", **options: Any) -> list[float]:
        method = sk.methods.get(name)(**{"sparsity": 0.98, "total_steps": 1200, **options})
        return [round(method.sparsity(t), 6) for t in range(1200) if t == 0 or method.when.fires(t)]

    assert levels() == levels("rewind") == [0, 0.5, 0.75, 0.9, 0.95, 0.98]
    assert levels(sparsity=0.8) == [0, 0.5, 0.75, 0.8]
    assert levels(sparsity=0.5) == [0, 0.5]
    assert levels(sparsity=0.0) == [0]
    assert levels(sparsity=0.6, fraction=0.2) == [0, 0.2, 0.36, 0.488, 0.5904, 0.6]
    method = sk.methods.lottery(sparsity=0.98, total_steps=1203)
    assert [t for t in range(1203) if method.when.fires(t)] == [200, 400, 600, 800, 1000]
    assert method.notes == ("lottery: sparsity 0, 50, 75, 90, 95, 98 % from steps 0, 200, 400, 600, 800, 1000 on",)
    assert sk.methods.rewind(sparsity=0.98, total_steps=1200).rule.rewind == 6


def test_the_clock_of_the_learning_rate() -> None:
    lottery = sk.methods.lottery(sparsity=0.75, total_steps=301).rule
    assert [lottery.clock(t) for t in (0, 50, 100, 150)] == pytest.approx([0, 150.5, 0, 150.5])
    assert lottery.clock(300) == pytest.approx(301 * 100 / 101)
    rewound = sk.methods.rewind(sparsity=0.75, total_steps=300, step=20).rule
    assert [rewound.clock(t) for t in (20, 100, 200, 150)] == pytest.approx([60, 60, 60, 180])
    assert all(0 < b - a < 3.1 for a, b in pairwise(map(rewound.clock, range(100, 200))))
    for name in ("oneshot_ft", "dpf"):
        rule = sk.methods.get(name)(sparsity=0.75, total_steps=300, steps_per_epoch=10).rule
        assert [rule.clock(t) for t in (0, 123, 299)] == [0, 123, 299]
    assert sk.methods.magnitude_after(sparsity=0.75, total_steps=300).rule.clock(225) == 150


def test_state_that_is_not_of_single_weights_begins_anew() -> None:
    torch.manual_seed(0)
    method = make("magnitude_after")
    model = sk.sparsify(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)), method)
    optimizer = sk.Sparsifier(model, torch.optim.Adafactor(model.parameters()), method)
    for x, y in batches("linear"):
        step(model, optimizer, (x.float(), y))
    assert all(optimizer.state[site.parameter]["variance"].shape == (site.nnz,) for site in optimizer.sites)


def test_refuses() -> None:
    for name, options, message in (
        ("lottery", {"total_steps": 2}, "lottery takes 3 rounds, at least one step each, but the run has 2"),
        ("lottery", {"fraction": 1.0}, r"lottery takes fraction in \(0, 1\), got 1.0"),
        ("rewind", {"step": 10}, "rewind rewinds to a step of the first round, of 6 steps, got 10"),
        ("oneshot_ft", {"stop": 1.0}, "oneshot_ft takes stop below 1"),
        ("oneshot_ft", {"stop": 0.0}, "oneshot_ft takes stop as a fraction"),
        ("magnitude_after", {"total_steps": None}, "magnitude_after needs total_steps"),
    ):
        with pytest.raises(ValueError, match=message):
            sk.methods.get(name)(**{"sparsity": 0.7, "total_steps": STEPS, **options})

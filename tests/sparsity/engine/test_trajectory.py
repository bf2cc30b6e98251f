"""Training on nonzeros equals training a masked dense network, optimizer state too, through changes of pattern."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from support import trajectories
from support.trajectories import (
    CONV,
    EMERGENT,
    KINDS,
    NAMES,
    OPTIMIZERS,
    OPTIONS,
    SPARSE,
    TWINS,
    batches,
    chosen,
    expected,
    make,
    prepare,
    step,
)
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.sparsity.change.carry_optimizer_state import by_map, carry
from sparsekern.sparsity.change.optimizer_layout import States
from sparsekern.sparsity.change.transaction import Transaction


class MaskedTwin:
    """Dense parameters, dense optimizer state; zeros are imposed on the weight, the gradient and the state."""

    def __init__(self, model: nn.Module, build: Callable) -> None:
        self.model = sk.densify(copy.deepcopy(model))
        self.optimizer = build(self.model.parameters())
        self.fresh = {k: float(v[0]) for k, v in self._probe(build).items()}
        self.masks: dict[str, Tensor] = {}

    @staticmethod
    def _probe(build: Callable) -> dict[str, Tensor]:
        parameter = nn.Parameter(torch.zeros(1, dtype=torch.double))
        optimizer = build([parameter])
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        return {k: v for k, v in optimizer.state[parameter].items() if isinstance(v, Tensor) and v.dim() == 1}

    def follow(self, sites: list) -> None:
        for site in sites:
            weight = self.model.get_submodule(site.name).weight
            mask, old = site.active.mask(), self.masks.get(site.name, site.active.mask())
            # SET may grow what it has just dropped: such a weight starts anew, at exactly 0.
            stays = mask & old & (site.active.dense(site.module.values.detach()) != 0)
            with torch.no_grad():
                weight.mul_(stays)
                for key, value in self.optimizer.state[weight].items():
                    if isinstance(value, Tensor) and value.shape == weight.shape:
                        value.copy_(torch.where(stays, value, self.fresh[key]))
            self.masks[site.name] = mask

    def step(self, batch: tuple[Tensor, Tensor], sites: list, *, update: bool) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(batch[0]), batch[1]).backward()
        for site in sites:
            self.model.get_submodule(site.name).weight.grad.mul_(self.masks[site.name])
        if update:
            self.optimizer.step()


@pytest.mark.parametrize(("kind", "optimizer"), [*(("linear", name) for name in OPTIMIZERS), *CONV])
@pytest.mark.parametrize("name", TWINS)
def test_sparse_equals_masked_dense(name: str, kind: str, optimizer: str) -> None:
    if name not in OPTIONS and optimizer != "momentum":
        optimizer = "adam"
    model, sparsifier = prepare(kind, name, OPTIMIZERS[optimizer])
    twin = MaskedTwin(model, OPTIMIZERS[optimizer])
    twin.follow(sparsifier.sites)
    changes = 0
    for t, batch in enumerate(batches(kind)):
        due = sparsifier.method.when.fires(t)
        step(model, sparsifier, batch)
        twin.step(batch, sparsifier.sites, update=not (due and sparsifier.method.order == "replace"))
        if sparsifier.rewired:
            twin.follow(sparsifier.sites)
            changes += 1
    assert changes >= 2 or name not in OPTIONS
    for site in sparsifier.sites:
        weight = twin.model.get_submodule(site.name).weight
        torch.testing.assert_close(site.active.dense(site.module.values.detach()), weight.detach())
        dense_state = twin.optimizer.state[weight]
        for key, value in sparsifier.state[site.module.values].items():
            if isinstance(value, Tensor) and value.shape == site.module.values.shape:
                expected = site.active.gather(dense_state[key])[: site.nnz]
                torch.testing.assert_close(value[: site.nnz], expected, msg=f"{site.name} {key}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_equals_masked_backend(name: str, kind: str) -> None:
    runs = []
    for backend in ("sparse", "masked", "dense"):
        model, sparsifier = prepare(kind, name, OPTIMIZERS["momentum"], backend)
        losses = [step(model, sparsifier, batch) for batch in batches(kind)]
        runs.append((torch.stack(losses), [site.active.mask() for site in sparsifier.sites]))
        assert {site.module.kernel for site in sparsifier.sites} <= (
            {"csr", "tiled"} if backend == "sparse" else {backend}
        )
    for losses, masks in runs[1:]:
        torch.testing.assert_close(losses, runs[0][0])
        assert all(torch.equal(a, b) for a, b in zip(masks, runs[0][1], strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPARSE)
def test_sparsity_is_exact_and_runs_are_deterministic(name: str, kind: str, device: str) -> None:
    outcomes = []
    for _ in range(2):
        model, sparsifier = prepare(kind, name, OPTIMIZERS["adam"], device=device)
        for batch in batches(kind, device=device):
            step(model, sparsifier, batch)
            if name not in EMERGENT:
                assert chosen(sparsifier) == expected(sparsifier)
        outcomes.append(model.state_dict())
    assert outcomes[0].keys() == outcomes[1].keys()
    assert all(torch.equal(outcomes[0][key], outcomes[1][key]) for key in outcomes[0])


@pytest.mark.parametrize(
    ("kind", "optimizer"), [*(("linear", name) for name in ("momentum", "adam-foreach", "amsgrad")), CONV[0]]
)
@pytest.mark.parametrize("name", NAMES)
def test_resume_in_the_middle_is_bit_for_bit(name: str, kind: str, optimizer: str) -> None:
    data = batches(kind)
    model, sparsifier = prepare(kind, name, OPTIMIZERS[optimizer])
    for t, batch in enumerate(data):
        if t == 11:
            saved = copy.deepcopy((model.state_dict(), sparsifier.state_dict()))
        step(model, sparsifier, batch)
    resumed, continuation = prepare(kind, name, OPTIMIZERS[optimizer], seed=99)
    resumed.load_state_dict(saved[0])
    continuation.load_state_dict(saved[1])
    for batch in data[11:]:
        step(resumed, continuation, batch)
    first, second = model.state_dict(), resumed.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert str(sparsifier.report()) == str(continuation.report())


@pytest.mark.parametrize("name", NAMES)
def test_a_pickled_method_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes, original = [], make(name)
    for method in (original, pickle.loads(pickle.dumps(original))):
        monkeypatch.setattr(trajectories, "make", lambda name, method=method: method)
        model, sparsifier = prepare("linear", name, OPTIMIZERS["momentum"])
        for batch in batches("linear", 12):
            step(model, sparsifier, batch)
        outcomes.append(model.state_dict())
    assert outcomes[0].keys() == outcomes[1].keys()
    assert all(torch.equal(outcomes[0][key], outcomes[1][key]) for key in outcomes[0])


def test_adafactor_state_is_carried() -> None:
    layer = sk.SparseLinear(10, 8, sparsity=0.5)
    optimizer = torch.optim.Adafactor(layer.parameters())
    layer(torch.randn(4, 10)).square().sum().backward()
    optimizer.step()
    variance = optimizer.state[layer.values]["variance"].clone()
    nnz = layer.topology.nnz
    keep = torch.arange(nnz) % 2 == 0
    absent = (~layer.topology.mask()).flatten().nonzero().flatten()[: nnz - int(keep.sum())]
    _, index_map = layer.topology.rewire(keep, absent)
    change = Transaction()
    carry(change, States(optimizer), change.layer(layer), by_map(index_map))
    change.commit()
    moved = optimizer.state[layer.values]["variance"]
    torch.testing.assert_close(moved[index_map >= 0], variance[keep])
    assert (moved[index_map < 0] == 0).all()

"""Training on nonzeros equals training a masked dense network, optimizer state too, through changes of pattern."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import convnet
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.sparsity.carry import carry

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, foreach=False),
    "adam-foreach": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-3, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "set": {"every": 5},
    "rigl": {"every": 5},
    "gmp": {"every": 5},
    **{name: {"every": 5, "stop": 1.0} for name in ("gse_random", "gse_synflow", "gse_grabo", "gse_graest")},
}
STEPS = 20


SPARSE = [name for name in sk.methods.names() if name != "dense"]
KINDS = ("linear", "conv")
CONV = [("conv", "momentum"), ("conv", "adamw-fused")]


def network(kind: str) -> nn.Module:
    if kind == "conv":
        return convnet().double()
    return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 15), nn.Tanh(), nn.Linear(15, 3)).double()


def batches(kind: str, n: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    if kind == "conv":
        x = torch.randn(n, 8, 3, 6, 6, generator=generator, dtype=torch.double)
        return [(part, part.mean((2, 3)).argmax(1)) for part in x]
    x = torch.randn(n, 16, 12, generator=generator, dtype=torch.double)
    return [(part, part[:, :3].argmax(1)) for part in x]


def make(name: str, **options: Any) -> sk.Method:
    options = {**OPTIONS.get(name, {}), **options}
    return sk.methods.get(name)(sparsity=0.7, total_steps=STEPS, steps_per_epoch=5, **options)


def prepare(
    kind: str, name: str, build: Callable, backend: str = "sparse", seed: int = 3
) -> tuple[nn.Module, sk.Sparsifier]:
    torch.manual_seed(seed)
    method, data = make(name), batches(kind, 4)
    model = sk.sparsify(network(kind), method, batches=data, loss=nn.functional.cross_entropy, backend=backend)
    return model, sk.Sparsifier(model, build(model.parameters()), method)


def step(model: nn.Module, optimizer: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss.detach()


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
@pytest.mark.parametrize("name", SPARSE)
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
        twin.step(batch, sparsifier.sites, update=not (due and sparsifier.method.update == "replace"))
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
def test_sparsity_is_exact_and_runs_are_deterministic(name: str, kind: str) -> None:
    outcomes = []
    for _ in range(2):
        model, sparsifier = prepare(kind, name, OPTIMIZERS["adam"])
        size = sum(site.size for site in sparsifier.sites)
        for t, batch in enumerate(batches(kind)):
            step(model, sparsifier, batch)
            expected = sk.topology.kept(sparsifier.method.sparsity(t), size)
            if name != "prospr_channel":  # whose sparsity counts channels
                assert sum(site.nnz for site in sparsifier.sites) == expected
        outcomes.append(model.state_dict())
    assert outcomes[0].keys() == outcomes[1].keys()
    assert all(torch.equal(outcomes[0][key], outcomes[1][key]) for key in outcomes[0])


@pytest.mark.parametrize(
    ("kind", "optimizer"), [*(("linear", name) for name in ("momentum", "adam-foreach", "amsgrad")), CONV[0]]
)
@pytest.mark.parametrize("name", sk.methods.names())
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
    carry(optimizer, layer, index_map)
    moved = optimizer.state[layer.values]["variance"]
    torch.testing.assert_close(moved[index_map >= 0], variance[keep])
    assert (moved[index_map < 0] == 0).all()

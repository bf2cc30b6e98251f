"""Models in wrappers, and the names of their layers."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.tensor
from support.networks import layers, network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import sparsekern as sk
from sparsekern.sparsity.model.wrappers import WRAPPERS, bare, own_modules

METHODS: dict[str, Any] = {
    "nonzeros": lambda: sk.methods.set(0.5, 30, 3, every=2),
    "master": lambda: sk.methods.dpf(0.5, 30, 3, every=2),
    "stashed": lambda: sk.methods.snr_frozen(0.5, 30, 3),
}
storages = pytest.mark.parametrize("storage", METHODS)


def started(storage: str, model: nn.Module, **options: Any) -> tuple[nn.Module, sk.Sparsifier]:
    method = METHODS[storage]()
    model = sk.sparsify(model, method, **options)
    return model, sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method)


class Wrapped(nn.Module):
    """A module called like a wrapper's, beside a namesake."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.module = nn.Linear(8, 8), nn.ModuleDict({"fc": nn.Linear(8, 8)})
        self._orig_mod = nn.Sequential(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self._orig_mod(self.fc(x) + self.module["fc"](x).tanh())


@storages
@pytest.mark.parametrize("kind", [nn.Sequential, DataParallel, torch.compile])
def test_names_are_the_models_own(storage: str, kind: Any) -> None:
    model, optimizer = started(storage, Wrapped(), include="*" if storage == "nonzeros" else ())
    names = {name for name, module in model.named_modules() if hasattr(module, "topology")}
    twin, method = copy.deepcopy(model), METHODS[storage]()
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(model(torch.randn(6, 8)), torch.arange(6) % 3).backward()
        optimizer.step()
    assert {row["name"] for row in optimizer.report().rows} == names
    wrapped = kind(twin)
    other = sk.Sparsifier(wrapped, torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9), method)
    if kind is nn.Sequential:  # whose names are its own
        assert {site.name for site in other.sites} == {f"0.{name}" for name in names}
        return
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    for site, own in zip(other.sites, optimizer.sites, strict=True):
        assert site.name == own.name
        assert torch.equal(site.active.mask(), own.active.mask())


def test_states_of_former_names_load() -> None:
    """Version 0.1 took every `module` in a name for a wrapper."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x)

    _, optimizer = started("nonzeros", Net())
    state = optimizer.state_dict()
    assert list(state["sites"]) == ["module.0", "module.1"]
    state["sites"] = {name.removeprefix("module."): own for name, own in state["sites"].items()}
    optimizer.load_state_dict(state)
    state["sites"]["2"] = state["sites"].pop("1")
    with pytest.raises(ValueError, match="sparse layers 0, 2"):
        optimizer.load_state_dict(state)


def test_followers_in_wrappers_of_any_name() -> None:
    class Averaged(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.shadow, self.decay = copy.deepcopy(model), 0.9

    method = METHODS["nonzeros"]()
    model = sk.sparsify(Wrapped(), method)
    followers = [Averaged(model), AveragedModel(model), copy.deepcopy(model)]
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method, followers=followers)
    for _ in range(3):
        cross_entropy(model(torch.randn(6, 8)), torch.arange(6) % 3).backward()
        optimizer.step()
    assert optimizer.rewired
    for follower in followers:
        for layer, own in zip(layers(follower), layers(model), strict=True):
            assert layer.topology.same_pattern(own.topology)


def test_followers_beside_the_model_or_with_parts_of_it() -> None:
    """As ema_pytorch wraps both, and as a target network shares what comes first."""

    class Both(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.online_model, self.ema_model = model, copy.deepcopy(model)

    torch.manual_seed(0)
    method = METHODS["nonzeros"]()
    model: Any = sk.sparsify(nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)), method)
    both, partly = Both(model), copy.deepcopy(model)
    partly[0] = model[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="a follower lacks the sparse layer 0"):
        sk.Sparsifier(model, optimizer, method, followers=[model])
    sparsifier = sk.Sparsifier(model, optimizer, method, followers=[both, partly])
    assert [list(layers) for layers in sparsifier.followers] == [["0", "2"], ["2"]]
    for site in sparsifier.sites:  # no room: weights that grow replace Parameters
        assert site.active.capacity >= site.nnz
    for _ in range(6):
        expected = [layer.dense_weight().detach().clone() for layer in layers(both.ema_model)]
        sparsifier.zero_grad()
        cross_entropy(model(torch.randn(6, 8)), torch.arange(6) % 3).backward()
        sparsifier.step()
        for layer, own, before in zip(layers(both.ema_model), layers(model), expected, strict=True):
            assert layer.topology.same_pattern(own.topology)
            stays = (layer.dense_weight() != 0) & own.topology.mask()
            assert torch.equal(layer.dense_weight(), before * stays)
    assert partly[0] is model[0]
    assert partly[2].topology.same_pattern(model[2].topology)


def test_every_wrapper_of_torch_is_there() -> None:
    for name in WRAPPERS:
        if name.startswith("torch."):
            module, _, kind = name.rpartition(".")
            assert issubclass(getattr(__import__(module, fromlist=[kind]), kind), nn.Module)
    model = Wrapped()
    model.fc = torch.compile(model.fc)  # type: ignore[assignment]
    assert bare(torch.compile(DataParallel(model))) is model
    assert dict(own_modules(AveragedModel(model))).keys() == dict(Wrapped().named_modules()).keys()


@pytest.mark.parametrize("wrap", [DataParallel, AveragedModel])
def test_what_is_wrapped_is_not_made_sparse(wrap: Any) -> None:
    for model in (wrap(network()), nn.Sequential(wrap(network()))):
        with pytest.raises(ValueError, match=rf"{wrap.__name__}.*Sparsify the model inside first, then wrap it"):
            sk.sparsify(model, 0.5)


def test_data_parallel_models(tmp_path: Path) -> None:
    """Sparse first, then wrapped; otherwise the ranks would drift apart."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        inner, method = network(), METHODS["nonzeros"]()
        wrapped = DistributedDataParallel(inner)
        with pytest.raises(ValueError, match=r"DistributedDataParallel: .*Sparsify the model inside first, then wrap"):
            sk.sparsify(wrapped, method)
        sk.sparsify(inner, method)
        optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
        with pytest.raises(ValueError, match="DistributedDataParallel was wrapped around the model before sparsify"):
            sk.Sparsifier(wrapped, optimizer, method)
        assert [site.name for site in sk.Sparsifier(DistributedDataParallel(inner), optimizer, method).sites] == list(
            "024"
        )
        mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        sharded = nn.Sequential(nn.Linear(4, 4))
        sharded[0].weight = nn.Parameter(dist.tensor.distribute_tensor(sharded[0].weight, mesh))
        with pytest.raises(ValueError, match=r"0.weight are sharded \(DTensor\): sparsify the model first"):
            sk.sparsify(sharded, method)
    finally:
        dist.destroy_process_group()


def test_compiled_models_can_be_made_sparse_but_not_compiled_layers() -> None:
    model = network()
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(4, 30)
    compiled(x)
    sk.sparsify(compiled, 0.5)
    assert len(layers(model)) == 3
    torch.testing.assert_close(compiled(x), model(x))
    model = network()
    model[2] = torch.compile(model[2])
    with pytest.raises(ValueError, match=r"2._orig_mod are layers compiled by themselves"):
        sk.sparsify(model, 0.5)
    model = network()
    model[2].compile()
    with pytest.raises(ValueError, match=r"2 are layers compiled by themselves"):
        sk.sparsify(model, 0.5)

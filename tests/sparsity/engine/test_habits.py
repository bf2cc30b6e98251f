"""Habits of training scripts: what happens to layers that a step leaves out, to names, to dtypes."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk


class Skipping(nn.Module):
    """Residual blocks, of which a step may leave some out; a backbone that may run without gradients."""

    def __init__(self, backbone: bool = True) -> None:
        super().__init__()
        self.first, self.last, self.backbone = nn.Linear(10, 16), nn.Linear(16, 5), backbone
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor, skip: Any = ()) -> Tensor:
        with torch.set_grad_enabled(self.backbone and torch.is_grad_enabled()):
            x = torch.tanh(self.first(x))
        for i, block in enumerate(self.blocks):
            x = x if i in skip else x + torch.tanh(block(x))
        return self.last(x)


def prepare(model: nn.Module, name: str, steps: int = 40, **options: Any) -> tuple[Any, sk.Sparsifier]:
    torch.manual_seed(0)
    method = sk.methods.get(name)(sparsity=0.8, total_steps=steps, steps_per_epoch=4, **options)
    model = sk.sparsify(model, method)
    return model, sk.Sparsifier(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), method)


def step(model: Any, optimizer: sk.Sparsifier, **options: Any) -> None:
    optimizer.zero_grad()
    cross_entropy(model(torch.randn(8, 10), **options), torch.arange(8) % 5).backward()
    optimizer.step()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["granet", "gmp", "rigl", "set", "gse_grabo"])
def test_blocks_that_are_left_out_do_not_alter_the_sparsity(name: str) -> None:
    model, optimizer = prepare(Skipping(), name, every=4)
    drawn = torch.Generator().manual_seed(1)
    for _ in range(40):
        step(model, optimizer, skip=[i for i in range(4) if torch.rand((), generator=drawn) < 0.5])
    sizes = sum(site.size for site in optimizer.sites)
    assert sum(site.nnz for site in optimizer.sites) == sizes - int(0.8 * sizes + 1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["set", "dsr", "rigl", "granet", "gse_random"])
def test_layers_without_a_gradient_stay_as_they_are(name: str) -> None:
    options = {"threshold": 0.05} if name == "dsr" else {}
    model, optimizer = prepare(Skipping(backbone=False), name, every=4, **options)
    before, masks = copy.deepcopy(model.first), [site.active.mask() for site in optimizer.sites]
    for _ in range(20):
        step(model, optimizer)
    if name == "granet":  # whose schedule prunes all layers together
        assert model.first.topology.nnz <= before.topology.nnz
        assert not ((model.first.weight != 0) & (before.weight == 0)).any()
    else:
        assert torch.equal(model.first.weight + 0, before.weight + 0)
    assert not all(torch.equal(site.active.mask(), mask) for site, mask in zip(optimizer.sites, masks, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gmp", "dpf", "oneshot_ft", "magnitude_after", "lottery"])
def test_names_follow_where_layers_settle(name: str) -> None:
    torch.manual_seed(0)
    options = {"finetune": 2} if name == "dpf" else {}
    method = sk.methods.get(name)(sparsity=0.6, total_steps=24, steps_per_epoch=4, **options)
    model = sk.sparsify(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(24, 5)), method)
    average = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.named_parameters(), 0.05)
    sparsifier = sk.Sparsifier(model, optimizer, method, followers=[average])
    twin = copy.deepcopy(model)
    sparsifier.follow(twin)
    for _ in range(24):
        sparsifier.zero_grad()
        cross_entropy(model(torch.randn(8, 3, 4, 4)), torch.arange(8) % 5).backward()
        sparsifier.step()
        with torch.no_grad():
            for (key, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
                average[key].lerp_(p, 0.1)
                q.lerp_(p, 0.1)
    names = [key for key, _ in model.named_parameters()]
    assert "0.values" in names
    assert list(average) == names == optimizer.param_groups[0]["param_names"]
    for key, q in twin.named_parameters():
        torch.testing.assert_close(average[key], q.detach())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.double, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["snr_frozen", "snr", "dpf", "rigl", "gmp"])
def test_another_dtype_in_the_middle(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    own = {} if name.startswith("snr") else {"sparsity": 0.6}
    method = sk.methods.get(name)(**own, total_steps=24, steps_per_epoch=4)
    model = sk.sparsify(nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 5)), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), 0.05), method)
    for i in range(24):
        if i == 9:
            model.to(dtype)
        optimizer.zero_grad()
        loss = cross_entropy(model(torch.randn(8, 10).to(next(model.parameters()).dtype)), torch.arange(8) % 5)
        loss.backward()
        optimizer.step()
        if i % 4 == 3:
            optimizer.epoch_end(float(loss))
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model(torch.randn(2, 10, dtype=dtype)).isfinite().all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("frozen", ["before", "weight", "layer"])
def test_a_frozen_layer_has_a_frozen_threshold(frozen: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 5))
    if frozen == "before":
        network[0].requires_grad_(False)
    method = sk.methods.str(total_steps=40, steps_per_epoch=4, initial=-10.0)
    model: Any = sk.sparsify(network, method)
    if frozen == "weight":
        model[0].weight.requires_grad = False
    elif frozen == "layer":
        model[0].requires_grad_(False)
    before = (model[0].weight + 0).detach()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = sk.Sparsifier(model, torch.optim.SGD(trained, 0.1, weight_decay=0.5), method)
    for _ in range(40):
        step(model, optimizer)
    assert torch.equal(model[0].weight + 0, before)
    assert ((model[2].weight + 0) == 0).any()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["snr", "snr_frozen", "rigl"])
def test_whole_graphs_compile_under_every_gradient(name: str) -> None:
    torch.manual_seed(0)
    own = {} if name.startswith("snr") else {"sparsity": 0.6}
    method = sk.methods.get(name)(**own, total_steps=12, steps_per_epoch=3)
    outcomes = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = sk.sparsify(nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 5)), method)
        optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), 0.05), method)
        call = torch.compile(model, fullgraph=True, backend="eager") if compiled else model
        for i in range(12):
            step(call, optimizer)
            if i % 3 == 2:
                optimizer.epoch_end(1.0)
        outcomes.append([(layer.weight + 0).detach() for layer in (model[0], model[2])])
    for eager, whole in zip(*outcomes, strict=True):
        torch.testing.assert_close(eager, whole)

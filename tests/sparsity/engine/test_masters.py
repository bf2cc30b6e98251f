"""Methods whose pruned weights are kept: trajectories against a dense twin that masks its weights, and freezing."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.networks import convnet
from support.trajectories import CONV, KINDS, OPTIMIZERS, STEPS, batches, make, network, prepare, step
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

import sparsekern as sk
from sparsekern.nn import SparseLayer
from sparsekern.sparsity.methods.after import TrainingRounds
from sparsekern.sparsity.parts.schedules import constant

MASTERS = [name for name in sk.methods.names() if make(name).storage == "master"]
SOFT = ("sfp", "str")  # they change weights or products; their tests have twins of their own
IN_ROUNDS = [name for name in MASTERS if isinstance(make(name).rule, TrainingRounds)]  # so have these
LASTING = [name for name in MASTERS if name not in (*SOFT, *IN_ROUNDS)]


class MasterTwin:
    """Dense weights w, an optimizer of its own; every step runs the dense network at m * w and gives w the gradient
    found there, at all entries (straight-through) or at those of m."""

    def __init__(self, model: nn.Module, sites: list, build: Callable, *, through: bool) -> None:
        self.model = sk.densify(copy.deepcopy(model))
        for site in sites:  # densify leaves zeros where the mask has them
            self.model.get_submodule(site.name).weight.data.copy_(site.weight)
        self.weights = dict(self.model.named_parameters())
        self.masters = {name: nn.Parameter(p.detach().clone()) for name, p in self.weights.items()}
        self.optimizer = build(self.masters.values())
        self.through = through

    def step(self, batch: tuple[Tensor, Tensor], masks: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.masters[name] * masks.get(name, torch.tensor(True)))
        loss = cross_entropy(self.model(batch[0]), batch[1])
        gradients = torch.autograd.grad(loss, list(self.weights.values()))
        for name, gradient in zip(self.weights, gradients, strict=True):
            masked = name in masks and not self.through
            self.masters[name].grad = gradient * masks[name] if masked else gradient
        self.optimizer.step()


def masks_of(optimizer: sk.Sparsifier) -> dict[str, Tensor]:
    return {f"{site.name}.weight": site.active.mask() for site in optimizer.sites}


@pytest.mark.parametrize(("kind", "optimizer"), [*(("linear", name) for name in OPTIMIZERS), *CONV])
@pytest.mark.parametrize("name", LASTING)
def test_masked_layers_equal_dense_twin(name: str, kind: str, optimizer: str) -> None:
    model, sparsifier = prepare(kind, name, OPTIMIZERS[optimizer])
    twin = MasterTwin(model, sparsifier.sites, OPTIMIZERS[optimizer], through=name != "optg")
    changes = 0
    for batch in batches(kind):
        if sparsifier.frozen:
            break
        masks = masks_of(sparsifier)
        twin.step(batch, masks)
        step(model, sparsifier, batch)
        if name == "snfs":  # what is absent, before or after a change, is 0
            with torch.no_grad():
                for key, mask in masks_of(sparsifier).items():
                    twin.masters[key].mul_(mask & masks[key])
        changes += sparsifier.rewired
    assert changes >= 2
    if sparsifier.frozen:
        return
    for site in sparsifier.sites:
        expected = twin.masters[f"{site.name}.weight"]
        torch.testing.assert_close(site.module.stored.detach(), expected.detach())
        for key, value in twin.optimizer.state[expected].items():
            torch.testing.assert_close(sparsifier.state[site.module.stored][key], value, msg=f"{site.name} {key}")


@pytest.mark.parametrize("period", [1, 16])
def test_without_sparsity_it_is_the_dense_network_bit_for_bit(period: int) -> None:
    losses = []
    for name in ("dense", "dpf"):
        torch.manual_seed(0)
        options = {"every": period} if name == "dpf" else {}
        method = sk.methods.get(name)(sparsity=0.0, total_steps=STEPS, steps_per_epoch=5, **options)
        model = sk.sparsify(network("linear"), method)
        inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        optimizer = sk.Sparsifier(model, inner, method)
        losses.append(torch.stack([step(model, optimizer, batch) for batch in batches("linear")]))
    assert torch.equal(*losses)


def test_dpf_masks_are_constant_between_updates_and_made_again_at_the_end() -> None:
    model, optimizer = prepare("linear", "dpf_layerwise", OPTIMIZERS["momentum"])
    before = masks_of(optimizer)
    for t, batch in enumerate(batches("linear")):
        step(model, optimizer, batch)
        now = masks_of(optimizer)
        if (t + 1) % 4 and t + 1 != STEPS:
            assert all(torch.equal(now[key], before[key]) for key in now)
        before = now
    for site in optimizer.sites:
        largest = site.weight.abs().flatten().topk(site.nnz).indices.sort().values
        assert torch.equal(site.active.coordinates(), largest)


@pytest.mark.filterwarnings("ignore:layer collapse")
@pytest.mark.parametrize("name", ["dpf", "optg", "snr"])
def test_layers_without_weights(name: str) -> None:
    method = make(name)
    plain = nn.Sequential(nn.Linear(6, 0), nn.Linear(0, 5), nn.Linear(5, 4), nn.Linear(4, 3))
    model = sk.sparsify(plain, method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    for _ in range(STEPS):
        optimizer.zero_grad()
        cross_entropy(model(torch.randn(8, 6)), torch.arange(8) % 3).backward()
        optimizer.step()
        if optimizer.steps % 5 == 0:
            optimizer.epoch_end(1.0)
    assert [site.nnz for site in optimizer.sites[:2]] == [0, 0]
    assert optimizer.sites[2].nnz < 20


def test_dpf_prunes_convolutions_and_leaves_the_classifier() -> None:
    names = [site.name for site in prepare("conv", "dpf", OPTIMIZERS["sgd"])[1].sites]
    assert names == ["0", "3", "6", "7"]
    names = [site.name for site in prepare("linear", "dpf", OPTIMIZERS["sgd"])[1].sites]
    assert names == ["0", "2"]


def test_a_pruned_weight_goes_on_learning_and_returns() -> None:
    model, optimizer = prepare("linear", "dpf", OPTIMIZERS["sgd"])
    data = batches("linear")
    for batch in data[:8]:
        step(model, optimizer, batch)
    site = optimizer.sites[0]
    absent = ~site.active.mask()
    before = site.weight.clone()
    step(model, optimizer, data[8])
    assert (site.weight != before)[absent].any()
    assert (site.weight[absent] != 0).all()
    hidden = site.weight[~site.active.mask()].square().sum() / site.weight.square().sum()
    assert site.measures()["error"] == pytest.approx(hidden.item())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["nesterov", "amsgrad", "adamw-fused"])
def test_fine_tuning_trains_the_nonzeros_of_the_final_pattern(kind: str, optimizer: str) -> None:
    model, sparsifier = prepare(kind, "dpf", OPTIMIZERS[optimizer])
    average = AveragedModel(model)
    sparsifier.engine.followers = sk.Sparsifier(
        model, sparsifier.optimizer, sparsifier.method, followers=[average]
    ).followers
    data = batches(kind)
    for batch in data[:14]:
        step(model, sparsifier, batch)
    twin = copy.deepcopy((model, sparsifier))
    step(model, sparsifier, data[14])
    assert sparsifier.frozen
    assert sparsifier.reallocated
    layers = [m for m in model.modules() if isinstance(m, SparseLayer)]
    assert len(layers) == len(sparsifier.sites)
    for layer in layers:
        assert not hasattr(layer, "moment")
        assert [name for name, _ in layer.named_parameters()] == (
            ["values", "bias"] if layer.bias is not None else ["values"]
        )
        assert layer.values.numel() == layer.topology.nnz
        state = sparsifier.state[layer.values]
        assert all(v.numel() in (1, layer.topology.nnz) for v in state.values() if isinstance(v, Tensor))
    assert sum(layer.topology.nnz for layer in layers) == sk.topology.nnz_at(0.7, sum(s.size for s in sparsifier.sites))
    # the same, with the mask fixed and the gradients of pruned weights cut: what stays trains alike
    other, other_sparsifier = twin
    other_sparsifier.engine.method = make("dpf", finetune=0, every=15)
    step(other, other_sparsifier, data[14])
    for t in range(15, STEPS):
        average.update_parameters(model)
        expected = step(other, other_sparsifier, data[t]) if t == 15 else None
        got = step(model, sparsifier, data[t])
        if expected is not None:
            torch.testing.assert_close(got, expected)
        assert not sparsifier.rewired
    average(data[0][0])


@pytest.mark.parametrize("at", [11, 17])
@pytest.mark.parametrize("name", MASTERS)
def test_resume_before_and_after_freezing(name: str, at: int) -> None:
    data = batches("conv")
    model, sparsifier = prepare("conv", name, OPTIMIZERS["amsgrad"])
    for t, batch in enumerate(data):
        if t == at:
            saved = copy.deepcopy((model.state_dict(), sparsifier.state_dict()))
        step(model, sparsifier, batch)
    resumed, continuation = prepare("conv", name, OPTIMIZERS["amsgrad"], seed=99)
    resumed.load_state_dict(saved[0])
    if sparsifier.frozen and at == 17:
        with pytest.raises(RuntimeError, match="state of the Sparsifier"):
            continuation.step()
    continuation.load_state_dict(saved[1])
    for batch in data[at:]:
        step(resumed, continuation, batch)
    first, second = model.state_dict(), resumed.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert str(sparsifier.report()) == str(continuation.report())


@pytest.mark.parametrize("name", ["dnw", "dpf_layerwise"])
def test_layerwise_dpf_at_every_step_and_constant_sparsity_is_dnw(name: str) -> None:
    """Discovering Neural Wirings: in every step the largest weights of each layer, straight-through gradients."""
    torch.manual_seed(3)
    method = make("dnw") if name == "dnw" else replace(make(name, every=1), sparsity=constant(0.7))
    model = sk.sparsify(network("linear"), method)
    optimizer = sk.Sparsifier(model, OPTIMIZERS["momentum"](model.parameters()), method)
    twin = MasterTwin(model, optimizer.sites, OPTIMIZERS["momentum"], through=True)
    for batch in batches("linear"):
        masks = {}
        for site in optimizer.sites:
            weight = twin.masters[f"{site.name}.weight"].detach().abs()
            mask = torch.zeros(weight.numel(), dtype=torch.bool)
            mask[weight.flatten().topk(site.nnz).indices] = True
            masks[f"{site.name}.weight"] = mask.reshape(weight.shape)
        assert all(torch.equal(masks[key], value) for key, value in masks_of(optimizer).items())
        twin.step(batch, masks)
        step(model, optimizer, batch)


def test_compiled_code_outlives_the_changes_of_a_mask() -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    method = sk.methods.dpf(sparsity=0.8, total_steps=200, steps_per_epoch=10, every=1)
    model = sk.sparsify(convnet(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.01), method)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    x, y = torch.randn(8, 3, 6, 6), torch.randint(5, (8,))
    flips = 0
    for t in range(190):
        if t < 160:
            with torch.no_grad():
                for site in optimizer.sites:
                    site.module.stored.add_(torch.randn_like(site.weight) * 0.01)
        optimizer.zero_grad()
        loss: Any = cross_entropy(compiled(x) if t >= 160 else model(x), y)
        loss.backward()
        optimizer.step()
        if t >= 160:
            flips += optimizer.rewired
    assert flips >= 2
    assert 1 <= counter.frame_count <= 2


@pytest.mark.parametrize("name", [*MASTERS, "snr_frozen"])
def test_a_method_with_its_sparsifier_can_be_pickled(name: str) -> None:
    model, sparsifier = prepare("linear", name, OPTIMIZERS["momentum"])
    data = batches("linear")
    for batch in data[:7]:
        step(model, sparsifier, batch)
    other, continuation = pickle.loads(pickle.dumps((model, sparsifier)))
    losses = [(step(model, sparsifier, batch), step(other, continuation, batch)) for batch in data[7:]]
    assert all(torch.equal(*pair) for pair in losses)

"""STR: thresholds that are learned, against the formula and a dense network that computes with it."""

import copy
import warnings
from typing import Any

import pytest
import torch
from support.networks import convnet
from support.trajectories import KINDS, OPTIMIZERS, STEPS, batches, network, prepare, step
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.sparsity.methods.soft_threshold import SoftThreshold


def layer(weight: list[float], level: float) -> tuple[Any, sk.Sparsifier]:
    """A linear layer with one output, whose threshold is `level`."""
    dense = nn.Linear(len(weight), 1, bias=False, dtype=torch.double)
    dense.weight.data.copy_(torch.tensor([weight]))
    initial = torch.tensor(level, dtype=torch.double).logit().item()
    method = sk.methods.str(total_steps=10, initial=initial)
    model = sk.sparsify(dense, method)
    return model, sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5), method)


@pytest.mark.parametrize("backend", ["sparse", "dense", "masked"])
def test_formula_and_gradients(backend: str) -> None:
    model, optimizer = layer([0.5, -2.0], 0.6)
    model.backend = backend
    model.set_topology(model.topology)
    torch.testing.assert_close(model.dense_weight(), torch.tensor([[0.0, -1.4]], dtype=torch.double))
    assert optimizer.sites[0].active.mask().tolist() == [[False, True]]
    for i, (slope, by_weight) in enumerate([(0.0, 0.0), (0.24, 1.0)]):
        model.zero_grad()
        model(torch.eye(2, dtype=torch.double)[i]).sum().backward()
        assert model.transform.threshold.grad.item() == pytest.approx(slope)
        assert model.weight.grad[0, i].item() == by_weight
        assert model.weight.grad[0, 1 - i].item() == 0


def test_weights_below_the_threshold_decay_and_come_back_when_it_falls() -> None:
    model, optimizer = layer([0.5, -2.0], 0.6)
    model(torch.tensor([1.0, 0.0], dtype=torch.double)).sum().backward()
    optimizer.step()
    assert model.master[0].tolist() == pytest.approx([0.5 * 0.95, -2.0 * 0.95])
    with torch.no_grad():
        model.transform.threshold.fill_(-2.0)  # 0.119
    optimizer.step()
    assert optimizer.sites[0].active.mask().all()
    assert optimizer.report().rows[0]["threshold"] == pytest.approx(torch.tensor(-1.9).sigmoid().item())


class ThresholdTwin:
    """The dense network at sign(w) relu(|w| - sigmoid(s)), by plain autograd."""

    def __init__(self, kind: str, sparsifier: sk.Sparsifier, build: Any) -> None:
        torch.manual_seed(3)
        self.model = network(kind)
        self.names = {f"{site.name}.weight" for site in sparsifier.sites}
        self.values = dict(self.model.named_parameters())
        self.thresholds = {name: nn.Parameter(torch.tensor(-4.0, dtype=torch.double)) for name in self.names}
        self.optimizer = build([*self.values.values(), *self.thresholds.values()])

    def step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.optimizer.zero_grad()
        values = {
            name: w.sign() * (w.abs() - self.thresholds[name].sigmoid()).relu() if name in self.names else w
            for name, w in self.values.items()
        }
        cross_entropy(functional_call(self.model, values, (batch[0],)), batch[1]).backward()
        self.optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adam-foreach", "adamw-fused"])
def test_it_is_the_dense_network_with_soft_thresholds(kind: str, optimizer: str) -> None:
    model, sparsifier = prepare(kind, "str", OPTIMIZERS[optimizer])
    twin = ThresholdTwin(kind, sparsifier, OPTIMIZERS[optimizer])
    changes = 0
    for batch in batches(kind):
        step(model, sparsifier, batch)
        twin.step(batch)
        changes += sparsifier.rewired
    assert changes >= 2
    assert 0 < sum(site.nnz for site in sparsifier.sites) < sum(site.size for site in sparsifier.sites)
    for site in sparsifier.sites:
        name = f"{site.name}.weight"
        threshold = twin.thresholds[name]
        for own, other in ((site.module.stored, twin.values[name]), (site.module.transform.threshold, threshold)):
            torch.testing.assert_close(own.detach(), other.detach())
            for key, value in twin.optimizer.state[other].items():
                torch.testing.assert_close(sparsifier.state[own][key], value, msg=f"{name} {key}")
        assert threshold.item() != -4
        assert torch.equal(site.active.mask(), site.weight.abs() > site.module.transform.threshold.sigmoid())


def test_what_is_frozen_and_what_is_dense_computes_the_same() -> None:
    model, sparsifier = prepare("conv", "str", OPTIMIZERS["momentum"])
    for batch in batches("conv"):
        step(model, sparsifier, batch)
    x = batches("conv")[0][0]
    expected = model.eval()(x)
    torch.testing.assert_close(sk.densify(copy.deepcopy(model))(x), expected)
    torch.testing.assert_close(sk.shrink(model, x)(x), expected)
    copied, other = copy.deepcopy((model, sparsifier))
    other.freeze()
    assert not [name for name, _ in copied.named_parameters() if "threshold" in name]
    torch.testing.assert_close(copied(x), expected)
    step(copied.train(), other, batches("conv")[0])


def test_thresholds_belong_to_the_optimizer_and_need_decay() -> None:
    method = sk.methods.str(total_steps=10)
    model = sk.sparsify(network("linear"), method)
    assert sum(isinstance(m, SoftThreshold) for m in model.modules()) == 3
    weights = [p for name, p in model.named_parameters() if "threshold" not in name]
    with pytest.raises(ValueError, match="does not hold the sparse weights of 0, 2, 4"):
        sk.Sparsifier(model, torch.optim.SGD(weights, lr=0.1), method)
    with pytest.warns(UserWarning, match=r"without weight decay the thresholds stay at sigmoid\(-3200\) = 0"):
        sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4), method)
    assert sk.methods.str(0.9, total_steps=10).notes == ("str: sparsity emerges; the given 0.9 is not used",)


def test_decay_raises_the_thresholds_from_the_papers_start() -> None:
    method = sk.methods.str(total_steps=STEPS)
    torch.manual_seed(0)
    model = sk.sparsify(network("linear"), method)
    thresholds = [p for name, p in model.named_parameters() if "threshold" in name]
    rest = [p for name, p in model.named_parameters() if "threshold" not in name]
    inner = torch.optim.SGD([{"params": thresholds, "weight_decay": 2.8}, {"params": rest}], lr=0.1)
    optimizer = sk.Sparsifier(model, inner, method)
    nnz = [sum(site.nnz for site in optimizer.sites)]
    for batch in batches("linear"):
        step(model, optimizer, batch)
        nnz.append(sum(site.nnz for site in optimizer.sites))
    assert nnz[0] == nnz[5] == 585
    assert 400 < nnz[-1] < 580


def test_compiled_code_outlives_changes_of_the_mask() -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    method = sk.methods.str(total_steps=60, initial=-2.5)
    model = sk.sparsify(convnet(), method, backend="sparse")
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9), method)
    counter = CompileCounterWithBackend("aot_eager")
    compiled: Any = torch.compile(model, backend=counter, fullgraph=True)
    x, y = torch.randn(8, 3, 6, 6), torch.randint(5, (8,))
    flips = 0
    for _ in range(20):
        optimizer.zero_grad()
        loss = cross_entropy(compiled(x), y)
        loss.backward()
        optimizer.step()
        flips += optimizer.rewired
    assert flips >= 5
    assert counter.frame_count <= 2
    torch.testing.assert_close(compiled(x), model(x))

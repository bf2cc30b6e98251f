"""ProsPr against differentiation through the whole stored training, by hand, and in memory."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.networks import convnet, network
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.nn import prunable_layers
from sparsekern.sparsity.scoring.network import scoring
from sparsekern.sparsity.scoring.objective import Objective, meta_gradient
from sparsekern.topology import nnz_at

Batch = tuple[Tensor, Tensor]
SHAPES = {"linear": (30,), "conv": (3, 6, 6)}


def build(kind: str) -> nn.Module:
    torch.manual_seed(1)
    return (network() if kind == "linear" else convnet()).double()


def samples(kind: str, n: int, size: int = 12) -> list[Batch]:
    torch.manual_seed(2)
    return [(torch.randn(size, *SHAPES[kind], dtype=torch.double), torch.randint(5, (size,))) for _ in range(n)]


def unrolled(model: nn.Module, batches: list[Batch], lr: float, momentum: float) -> dict[str, Tensor]:
    """dL(w_M)/dw_0 by differentiating through all steps at once: the paper's algorithm 1, its graph stored."""
    start = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    values, velocity = start, dict.fromkeys(start, 0)
    model = copy.deepcopy(model).train()
    for x, y in batches[:-1]:
        loss = cross_entropy(functional_call(model, values, (x,)), y)
        gradients = torch.autograd.grad(loss, list(values.values()), create_graph=True)
        velocity = {name: momentum * velocity[name] + g for name, g in zip(values, gradients, strict=True)}
        values = {name: value - lr * velocity[name] for name, value in values.items()}
    x, y = batches[-1]
    loss = cross_entropy(functional_call(model, values, (x,)), y)
    return dict(zip(start, torch.autograd.grad(loss, list(start.values())), strict=True))


def recursive(model: nn.Module, batches: list[Batch], lr: float, momentum: float, **options: Any) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    rates = [lr] * len(parameters)
    with scoring(model):
        objective = Objective(model, cross_entropy)
        found = meta_gradient(objective, list(parameters.values()), batches, rates, momentum, **options)
    return dict(zip(parameters, found, strict=True))


def masks(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.topology.mask() for name, layer in prunable_layers(model).items()}


def prune(model: nn.Module, method: sk.Method, batches: list[Batch], loss: Callable = cross_entropy) -> dict:
    return masks(sk.sparsify(copy.deepcopy(model), method, batches=batches, loss=loss))


def highest(scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    flat = torch.cat([score.flatten() for score in scores.values()])
    least = flat.topk(nnz_at(sparsity, flat.numel())).values[-1]
    return {name: score >= least for name, score in scores.items()}


def products(model: nn.Module, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {name: f"{name}.weight" for name in prunable_layers(model)}
    weights = dict(model.named_parameters())
    return {name: (weights[key] * gradients[key]).detach().abs() for name, key in names.items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_recursion_is_the_derivative_through_the_stored_steps(kind: str, steps: int, momentum: float) -> None:
    model, batches = build(kind), samples(kind, steps + 1)
    expected = unrolled(model, batches, 0.1, momentum)
    got = recursive(model, batches, 0.1, momentum)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-9, atol=1e-13, msg=name)
    method = sk.methods.prospr(sparsity=0.8, inner_steps=steps, lr=0.1, momentum=momentum)
    assert equal(prune(model, method, batches), highest(products(model, expected), 0.8))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_first_order_is_the_gradient_after_the_steps_of_sgd(momentum: float) -> None:
    model, batches = build("conv"), samples("conv", 4)
    trained = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.2, momentum=momentum)
    for x, y in batches:
        optimizer.zero_grad()
        cross_entropy(trained(x), y).backward()
        if x is not batches[-1][0]:
            optimizer.step()
    gradients = {name: p.grad for name, p in trained.named_parameters()}
    got = recursive(model, batches, 0.2, momentum, first_order=True)
    for name, gradient in gradients.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-9, atol=1e-13, msg=name)
    method = sk.methods.prospr_first_order(sparsity=0.7, lr=0.2, momentum=momentum)
    assert equal(prune(model, method, batches), highest(products(model, gradients), 0.7))


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_no_steps_are_snip(kind: str) -> None:
    model, batches = build(kind).float(), [(x.float(), y) for x, y in samples(kind, 4)]
    snip = prune(model, sk.methods.snip(sparsity=0.9), batches[:1])
    for name in ("prospr", "prospr_first_order"):
        assert equal(prune(model, sk.methods.get(name)(sparsity=0.9, inner_steps=0), batches), snip)
        assert not equal(prune(model, sk.methods.get(name)(sparsity=0.9, lr=1.0), batches), snip)
        rested = sk.methods.get(name)(sparsity=0.9, lr=0.0, fresh_batches=False)
        assert equal(prune(model, rested, batches), snip)


def test_a_parabola_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    batches = [(torch.ones(1, 1, dtype=torch.double), torch.zeros(1, 1))] * 2
    found = []
    with scoring(model):
        objective = Objective(model, lambda output, target: (output - target).square().sum() / 2)
        for data, options in ((batches, {}), (batches, {"first_order": True}), (batches[:1], {})):
            found += [2 * float(meta_gradient(objective, [model.weight], data, [0.5], 0.0, **options)[0])]
    assert found == [1, 2, 4]


def test_one_batch_for_all_steps_or_one_for_each() -> None:
    model, batches = build("linear"), samples("linear", 4)
    shared = sk.methods.prospr(sparsity=0.8, lr=0.5, fresh_batches=False)
    fresh = sk.methods.prospr(sparsity=0.8, lr=0.5)
    assert (shared.start.batches, fresh.start.batches, fresh.start.batch_size) == (1, 4, 512)
    assert equal(prune(model, shared, batches), highest(products(model, unrolled(model, batches[:1] * 4, 0.5, 0)), 0.8))
    assert not equal(prune(model, shared, batches), prune(model, fresh, batches))
    # What comes after the batches that are wanted is not looked at.
    assert equal(prune(model, fresh, [*batches, (batches[0][0] * 9, batches[0][1])]), prune(model, fresh, batches))


def test_frozen_parameters_take_no_step_but_are_scored() -> None:
    model, batches = build("linear"), samples("linear", 3)
    model[2].requires_grad_(False)
    objective = Objective(model, cross_entropy)
    rates = [0.5 if p.requires_grad else 0.0 for p in model.parameters()]
    expected = meta_gradient(objective, list(model.parameters()), batches, rates, 0.0)
    names = [name for name, _ in model.named_parameters()]
    scores = products(model, dict(zip(names, expected, strict=True)))
    method = sk.methods.prospr(sparsity=0.8, inner_steps=2, lr=0.5)
    assert equal(prune(model, method, batches), highest(scores, 0.8))
    assert not equal(highest(scores, 0.8), highest(products(model, unrolled(model, batches, 0.5, 0)), 0.8))


def test_dropout_is_off_and_batch_norm_learns_nothing() -> None:
    model = nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 5)).double()
    without = nn.Sequential(*(layer for layer in model if not isinstance(layer, nn.Dropout)))
    data = samples("linear", 3)
    got = recursive(model, data, 0.1, 0.0)
    expected = unrolled(without, data, 0.1, 0.0)
    for mine, theirs in zip(got.values(), expected.values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-13)
    assert not model[1].running_mean.any()


class Live(torch.autograd.graph.saved_tensors_hooks):
    """The most bytes that graphs hold at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        meter = self

        class Saved:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
                meter.now += self.size
                meter.most = max(meter.most, meter.now)

            def __del__(self) -> None:
                meter.now -= self.size

        super().__init__(Saved, lambda saved: saved.tensor)


def test_memory_is_that_of_one_step() -> None:
    model = build("conv")
    most: dict[Callable, list[int]] = {recursive: [], unrolled: []}
    for derivative, steps in itertools.product(most, (1, 4)):
        live = Live()
        with live:
            derivative(model, samples("conv", steps + 1), 0.1, 0.9)
        assert live.now == 0
        most[derivative].append(live.most)
    assert most[recursive][0] == most[recursive][1] > 0
    assert most[unrolled][1] > 2 * most[unrolled][0]


def test_errors() -> None:
    for options in ({"inner_steps": -1}, {"lr": -0.1}, {"momentum": 1.0}, {"batch_size": 0}, {"lr": float("nan")}):
        with pytest.raises(ValueError, match="prospr takes"):
            sk.methods.prospr(sparsity=0.5, **options)
    with pytest.raises(ValueError, match="prospr scores on 4 or more batches"):
        sk.sparsify(build("linear"), sk.methods.prospr(sparsity=0.5), batches=samples("linear", 3), loss=cross_entropy)
    mixed = sk.sparsify(build("linear"), 0.5, exclude=["2"])
    with pytest.raises(ValueError, match="0, 4 are sparse already"):
        sk.sparsify(mixed, sk.methods.prospr(sparsity=0.5), batches=samples("linear", 4), loss=cross_entropy)

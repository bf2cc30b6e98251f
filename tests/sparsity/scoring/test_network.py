"""Scores of the dense network: what each computes, and that it leaves no trace."""

import copy
from collections.abc import Callable

import pytest
import torch
from support.networks import convnet, network
from support.residual import residual
from support.trajectories import SCORING
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.nn import prunable_layers
from sparsekern.sparsity.methods.synflow import flow_scores
from sparsekern.sparsity.model.inputs import arguments
from sparsekern.sparsity.scoring.linearised import linearised
from sparsekern.sparsity.scoring.network import Network, scoring, untouched
from sparsekern.sparsity.scoring.objective import Objective
from sparsekern.topology import nnz_at


def make(name: str, sparsity: float = 0.7, **options: object) -> sk.Method:
    options = {**SCORING.get(name, {}), **options}
    return sk.methods.get(name)(sparsity=sparsity, total_steps=100, steps_per_epoch=10, **options)


STARTS = {name: start for name in sk.methods.names() if (start := make(name).start).choose is not None}
NAMES = list(STARTS)
BY_WEIGHT = [name for name, start in STARTS.items() if start.unit == "weight"]


def linear() -> nn.Sequential:
    """With a batch norm, dropout, and a weight that the loss does not use."""
    model = nn.Sequential(nn.Linear(30, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5))
    model[2].unused = nn.Linear(3, 2)
    return model


NETWORKS = {"linear": (linear, (30,)), "conv": (convnet, (3, 6, 6))}


def data(shape: tuple[int, ...], n: int = 4, size: int = 10) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(size, *shape), torch.randint(5, (size,))) for _ in range(n)]


def masks(model: nn.Module) -> list[Tensor]:
    return [layer.topology.mask() for layer in prunable_layers(model).values()]


def traces(model: nn.Module) -> list:
    state = [tensor.clone() for tensor in model.state_dict().values()]
    flags = [p.requires_grad for p in model.parameters()] + [m.training for m in model.modules()]
    return [state, flags, [(p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]]


def assert_same(first: list, second: list) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    assert first[1] == second[1]
    for (grad, value), (later, after) in zip(first[2], second[2], strict=True):
        assert grad is later
        assert value is after is None or torch.equal(value, after)


@pytest.mark.parametrize("outcome", ["done", "raised"])
@pytest.mark.parametrize("kind", list(NETWORKS))
@pytest.mark.parametrize("name", NAMES)
def test_a_scorer_leaves_no_trace(name: str, kind: str, outcome: str) -> None:
    torch.manual_seed(0)
    build, shape = NETWORKS[kind]
    model, batches = build(), data(shape)
    cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    model[0].weight.requires_grad_(False)
    model[1].weight.grad = None
    model[1].eval()
    calls = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        calls.append(torch.rand(3))
        if outcome == "raised":
            raise RuntimeError("no loss")
        return cross_entropy(output, target)

    before, random, method = traces(model), torch.get_rng_state(), make(name)
    layers = prunable_layers(model)
    total = nnz_at(0.7, sum(layer.weight.numel() for layer in layers.values()))
    counts = [total] + [0] * (len(layers) - 1)
    start = method.start
    seen = Network(model, layers, counts, method.view, batches, loss, torch.Generator())
    try:
        start.choose(seen)  # type: ignore[misc]
    except RuntimeError:
        assert outcome == "raised"
    assert bool(calls) == (start.batches > 0 and start.needs_loss)
    assert torch.equal(torch.get_rng_state(), random)
    assert_same(before, traces(model))


def test_untouched_restores_what_was_overwritten_and_replaced() -> None:
    model = linear()
    before, random = traces(model), torch.get_rng_state()
    with untouched(model):
        for tensor in model.state_dict().values():
            tensor.add_(1)
        model[1].running_mean = torch.zeros(16)
        cross_entropy(model(torch.randn(4, 30)), torch.randint(5, (4,))).backward()
        model.eval().requires_grad_(False)
    assert_same(before, traces(model))
    assert torch.equal(torch.get_rng_state(), random)


def test_scoring_normalises_by_the_batch_and_drops_nothing() -> None:
    model = linear().eval()
    x = torch.randn(8, 30)
    with torch.no_grad(), scoring(model):
        assert torch.is_grad_enabled()
        assert torch.equal(model(x), model(x))
        expected = model[4](torch.relu(nn.functional.batch_norm(model[0](x), None, None, training=True)))
        torch.testing.assert_close(model(x), expected)


class Dropping(nn.Module):
    """Dropout by functions and within attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(30, 20), nn.Linear(20, 5)
        self.attention = nn.MultiheadAttention(20, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.dropout(self.first(x), 0.5, self.training)
        h = nn.functional.alpha_dropout(input=h, p=0.5, training=self.training, inplace=True).unsqueeze(1)
        return self.last((h + self.attention(h, h, h)[0]).squeeze(1))


def test_scoring_drops_nothing_by_functions_either() -> None:
    torch.manual_seed(0)
    model, x = Dropping(), torch.randn(8, 30)
    expected = model.eval()(x)
    model.train()
    with scoring(model):
        torch.testing.assert_close(model(x), expected)
    assert model.attention.training
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("kind", list(NETWORKS))
@pytest.mark.parametrize("name", BY_WEIGHT)
def test_exact_and_deterministic(name: str, kind: str) -> None:
    build, shape = NETWORKS[kind]
    torch.manual_seed(0)
    model, batches = build(), data(shape)
    patterns = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        pruned = sk.sparsify(copy.deepcopy(model), make(name), batches=batches, loss=cross_entropy)
        patterns.append(masks(pruned))
    assert all(torch.equal(a, b) for a, b in zip(*patterns, strict=True))
    size = sum(mask.numel() for mask in patterns[0])
    assert sum(int(mask.sum()) for mask in patterns[0]) == nnz_at(0.7, size)
    whole = sk.sparsify(copy.deepcopy(model), make(name, 0.0), batches=batches, loss=cross_entropy)
    assert all(mask.all() for mask in masks(whole))


@pytest.mark.parametrize("name", BY_WEIGHT)
def test_a_layer_that_is_used_twice(name: str) -> None:
    torch.manual_seed(0)
    twice = nn.Linear(30, 30)
    model, batches = nn.Sequential(twice, nn.Tanh(), twice, nn.Tanh(), nn.Linear(30, 5)), data((30,))
    own = [id(p) for p in model.parameters()]
    method, layers = make(name), prunable_layers(model)
    counts = [nnz_at(0.7, 1050), 0]
    seen = Network(model, layers, counts, method.view, batches, cross_entropy, torch.Generator())
    masks = method.start.choose(seen)  # type: ignore[misc]
    assert sum(int(mask.sum()) for mask in masks) == counts[0]
    assert [id(p) for p in model.parameters()] == own
    assert model[0] is model[2] is twice


@pytest.mark.parametrize("name", BY_WEIGHT)
def test_equal_scores_keep_the_first_weights(name: str) -> None:
    model = network()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    sk.sparsify(model, make(name), batches=data((30,)), loss=lambda output, target: 0 * output.sum())
    flat = torch.cat([mask.flatten() for mask in masks(model)])
    assert torch.equal(flat, torch.arange(flat.numel()) < nnz_at(0.7, flat.numel()))


@pytest.mark.parametrize("name", ["grasp", "grasp_abs", "grasp_magnitude"])
@pytest.mark.parametrize("split", [False, True])
def test_grasp_of_a_parabola(split: bool, name: str) -> None:
    # L = (w1^2 + 2 w2^2) / 2 at w = (1, 1): w * Hg = (1, 4), and -w2 would not change the size
    for sign in (1.0, -1.0):
        model = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[1.0, sign]]))
        x, y = torch.tensor([[1.0, 0.0], [0.0, 2**0.5]]), torch.zeros(2, 1)
        batches = list(zip(x.split(1), y.split(1), strict=True)) if split else [(x, y)] * 2
        method = make(name, 0.5, temperature=1.0)
        pruned = sk.sparsify(model, method, batches=batches, loss=lambda output, target: output.square().sum() / 2)
        assert pruned.topology.mask().tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("name", "temperature"), [("grasp_abs", 1.0), ("grasp_abs", 200.0), ("grasp", 200.0), ("grasp_magnitude", 1.0)]
)
@pytest.mark.parametrize("build", [lambda: linear()[:3].append(nn.Linear(16, 5)), convnet, residual])
def test_grasp_is_the_product_with_the_hessian(build: Callable, name: str, temperature: float) -> None:
    torch.manual_seed(0)
    model = build().double()
    shape = (3, 6, 6) if build in (convnet, residual) else (30,)
    batches = [(x.double(), y) for x, y in data(shape, n=3)]
    twin = copy.deepcopy(model).train()
    weights = [layer.weight for layer in prunable_layers(twin).values()]
    loss = sum(cross_entropy(twin(x) / temperature, y) for x, y in batches)
    gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
    inner = sum((g * g.detach()).sum() for g in gradients)
    products = torch.autograd.grad(inner, weights, materialize_grads=True)
    flat = torch.cat([torch.mul(w, p).flatten() for w, p in zip(weights, products, strict=True)])
    signed, size = (scores >= scores.topk(nnz_at(0.8, flat.numel())).values[-1] for scores in (flat, flat.abs()))
    assert not torch.equal(signed, size)
    method = make(name, 0.8, **({"temperature": temperature} if name == "grasp_abs" else {}))  # others: by default
    sk.sparsify(model, method, batches=batches, loss=cross_entropy)
    expected = signed if name == "grasp" else size
    assert torch.equal(torch.cat([mask.flatten() for mask in masks(model)]), expected)


def test_starts_refuse() -> None:
    grasp = [
        (name, option) for name in ("grasp", "grasp_abs", "grasp_magnitude") for option in ("batches", "temperature")
    ]
    others = [(name, "batches") for name in ("snip_mb", "iter_snip", "force", "three_sp")]
    for name, option in (*grasp, *others, ("iter_snip", "rounds"), ("force", "rounds")):
        with pytest.raises(ValueError, match=f"{name} takes {option} >=? ?[01], got 0"):
            make(name, **{option: 0})
    with pytest.raises(ValueError, match=r"scores on data: pass batches=.* and loss="):
        sk.sparsify(network(), make("grasp_abs"), batches=data((30,)))


@pytest.mark.parametrize("bias", [True, False])
def test_synflow_conserves_the_flow(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 40, bias), nn.ReLU(), nn.Linear(40, 20, bias), nn.Tanh(), nn.Linear(20, 5))
    net = linearised(model)
    weights = [layer.weight.requires_grad_() for layer in net.module[::2]]
    ones = torch.ones(1, 30, dtype=torch.double)
    flow = model[4].weight.abs().double() @ (model[2].weight.abs().double() @ model[0].weight.abs().double().sum(1))
    for score in flow_scores(net, weights, arguments(ones)):
        torch.testing.assert_close(score.sum(), flow.sum().detach())


@pytest.mark.parametrize("sparsity", [0.9, 0.997])
def test_synflow_prunes_in_rounds(sparsity: float) -> None:
    torch.manual_seed(0)
    model = network().double()
    weights = [model[i].weight.detach().abs() for i in (0, 2, 4)]
    kept_here = [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
    size = sum(weight.numel() for weight in weights)
    for i in range(1, 11):
        first, second, third = (weight * mask for weight, mask in zip(weights, kept_here, strict=True))
        into, out = second @ first.sum(1), third.sum(0)  # of the second hidden layer
        scores = [first * (out @ second)[:, None], out[:, None] * second * first.sum(1), third * into]
        flat = torch.cat([(s - (~m).double()).flatten() for s, m in zip(scores, kept_here, strict=True)])
        count = nnz_at(1 - (nnz_at(sparsity, size) / size) ** (i / 10), size)
        chosen = torch.zeros_like(flat, dtype=torch.bool)
        chosen[flat.argsort(descending=True, stable=True)[:count]] = True
        kept_here = [p.view_as(w) for p, w in zip(chosen.split([w.numel() for w in weights]), weights, strict=True)]
    pruned = sk.sparsify(copy.deepcopy(model), make("synflow", sparsity, rounds=10), batches=data((30,)))
    assert all(torch.equal(mask, expected) for mask, expected in zip(masks(pruned), kept_here, strict=True))
    once = masks(sk.sparsify(model, make("synflow", sparsity, rounds=1), batches=data((30,))))
    assert not all(torch.equal(mask, other) for mask, other in zip(once, kept_here, strict=True))


def test_synflow_leaves_no_layer_empty() -> None:
    model = nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    sk.sparsify(model, make("synflow", 0.99, rounds=100), batches=data((100,)))
    assert all(mask.any() for mask in masks(model))


def test_synflow_refuses() -> None:
    with pytest.raises(ValueError, match="rounds >= 1, got 0"):
        make("synflow", rounds=0)
    with pytest.raises(ValueError, match="but the model takes"):
        sk.sparsify(network(), make("synflow"), batches=[(torch.ones(2, 30, dtype=torch.long), None)])
    model = network().double()
    for i in (0, 2):
        nn.init.constant_(model[i].weight, 1e300)
    with pytest.raises(ValueError, match="exceeds the range"):
        sk.sparsify(model, make("synflow"), batches=data((30,)))


def test_second_derivatives_pass_through_pytorchs_attention():
    """The Hessian times a vector, in fp32 on the kernels that have none, beside attention that is written out."""

    def attention(written_out: bool) -> Callable[[nn.Module, Tensor], Tensor]:
        def forward(self: nn.Module, x: Tensor) -> Tensor:
            q, k, v = self.linear(x).chunk(3, -1)
            if not written_out:
                return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
            return (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(hidden, -torch.inf).softmax(-1) @ v

        return forward

    linear, x, y = nn.Linear(8, 24), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    vector, found = [torch.randn(24, 8), torch.randn(24)], []
    for written_out in (False, True):
        model = type("Attention", (nn.Module,), {"forward": attention(written_out)})()
        model.linear = linear
        objective = Objective(model, nn.functional.mse_loss)
        found.append(objective.product(list(model.parameters()), (x, y), vector))
    torch.testing.assert_close(found[0], found[1])
    assert any(part.abs().max() > 1e-3 for part in found[0])

"""The linearised network and the flows through it."""

import copy
from typing import Any

import pytest
import torch
from support.networks import convnet, layers
from torch import Tensor, nn
from torch.nn import functional as F

import sparsekern as sk
from sparsekern.sparsity.model.inputs import arguments
from sparsekern.sparsity.scoring.linearised import flows, linearised

ACTIVATIONS = [
    nn.ReLU(inplace=True), nn.GELU(), nn.SiLU(inplace=True), nn.Tanh(), nn.Sigmoid(), nn.Hardswish(), nn.ELU(),
    nn.PReLU(), nn.Softplus(), nn.LogSigmoid(), nn.Softshrink(), nn.Mish(), nn.Hardtanh(), nn.ReLU6(), nn.Softmax(-1),
    nn.Dropout(0.5), nn.LogSoftmax(1), nn.Identity(),
]  # fmt: skip


class Residual(nn.Module):
    """Two strided, grouped branches that meet, then a linear layer; activations as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2), nn.Conv2d(4, 6, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)
        with torch.no_grad():
            for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean):
                tensor.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.norm(self.a(x))) + self.b(x).sigmoid()
        return torch.softmax(self.head(F.dropout(torch.tanh_(y)).mean((2, 3))), -1)


def by_hand(model: Any, x: Tensor, weight: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the linearised `Residual` computes, from absolute weights."""
    scale = model.norm.weight.abs() / (model.norm.running_var + model.norm.eps).sqrt()
    a = F.conv2d(x, weight["a"], None, 2, 1, 1, 2)
    b = F.conv2d(x, weight["b"], None, 2)
    y = a * scale[:, None, None] + b
    return {"a": a, "b": b, "y": y, "out": y.mean((2, 3)) @ weight["head"].T}


def residual() -> tuple[Residual, dict[str, Tensor]]:
    model = Residual().double()
    sk.sparsify(model, 0.4)
    weight = {name: model.get_submodule(name).weight.detach().abs() for name in ("a", "b", "head")}
    return model, weight


def test_the_linearised_network_of_a_residual_one() -> None:
    model, weight = residual()
    x = torch.rand(2, 4, 5, 6, dtype=torch.double)
    torch.testing.assert_close(linearised(model)(x), by_hand(model, x, weight)["out"])


def test_flows_of_a_residual_network() -> None:
    model, weight = residual()
    sparse = layers(model)
    got = flows(model, sparse, arguments(torch.randn(7, 4, 5, 6)))
    x = torch.ones(1, 4, 5, 6, dtype=torch.double, requires_grad=True)
    tensors = by_hand(model, x, weight)
    efferent = dict(zip("ab", torch.autograd.grad(tensors["out"].sum(), [tensors["a"], tensors["b"]]), strict=True))
    expected = {
        "a": (efferent["a"].sum((0, 2, 3)), torch.full((2, 18), 30.0)),
        "b": (efferent["b"].sum((0, 2, 3)), torch.full((4,), 30.0)),
        "head": (torch.ones(3), tensors["y"].mean((0, 2, 3))),
    }
    for layer, (rows, cols) in zip(sparse, got, strict=True):
        name = next(n for n, m in model.named_modules() if m is layer)
        torch.testing.assert_close(rows, (expected[name][0] / expected[name][0].sum()).double())
        torch.testing.assert_close(cols, (expected[name][1] / expected[name][1].sum()).detach().double())


@pytest.mark.parametrize("backend", ["dense", "sparse", "masked"])
def test_flows_multiply_to_the_gradient_and_layers_carry_the_same_flow(backend: str) -> None:
    """|theta dR/dtheta| sums to R in every layer of a perceptron, whatever kind of layers it has."""
    dense = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.SiLU(), nn.Linear(6, 3))
    mask = {str(i): torch.rand(dense[i].weight.shape) < 0.6 for i in (0, 2, 4)}
    model = copy.deepcopy(dense)
    for name, own in mask.items():
        if backend == "dense":
            model[int(name)].weight.data.mul_(own)
        elif backend == "sparse":
            model[int(name)] = sk.SparseLinear.from_dense(dense[int(name)], own)
        else:
            model[int(name)] = sk.MaskedLinear.from_dense(dense[int(name)], own)
    net = linearised(model)
    total = net(torch.ones(1, 5, dtype=torch.double)).sum()
    weights = [layer.weight if backend == "dense" else layer.stored for layer in (net.module[i] for i in (0, 2, 4))]
    gradients = torch.autograd.grad(total, weights)
    for i, weight, gradient in zip((0, 2, 4), weights, gradients, strict=True):
        score = weight * gradient if backend != "masked" else weight * gradient * mask[str(i)]
        torch.testing.assert_close(score.sum(), total)
    if backend == "sparse":
        pairs = flows(model, layers(model), arguments(torch.ones(1, 5)))
        for copied, gradient, (rows, cols) in zip(layers(net.module), gradients, pairs, strict=True):
            product = copied.topology.gather(torch.outer(rows, cols))
            torch.testing.assert_close(product / product.sum(), gradient / gradient.sum())


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda module: type(module).__name__)
def test_activations_pass_on(activation: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 5), activation, nn.Linear(5, 3))
    x = torch.randn(2, 4, dtype=torch.double)
    first, last = (model[i].weight.detach().double().abs() for i in (0, 2))
    torch.testing.assert_close(linearised(model)(x), x @ first.T @ last.T)


def test_normalisers_scale_and_attention_shares() -> None:
    x = torch.randn(2, 6, 4, 4, dtype=torch.double)
    gamma = -torch.rand(6)
    norms: list[Any] = [
        nn.GroupNorm(2, 6), nn.InstanceNorm2d(6, affine=True), nn.BatchNorm2d(6, track_running_stats=False),
    ]  # fmt: skip
    for norm in norms:
        norm.weight.data.copy_(gamma)
        torch.testing.assert_close(linearised(norm)(x), x * gamma.abs().double()[:, None, None])
    for last in (nn.LayerNorm(4), nn.RMSNorm(4)):
        last.weight.data.fill_(-3)
        torch.testing.assert_close(linearised(last)(x), 3 * x)
    torch.testing.assert_close(linearised(nn.GLU(1))(x), x[:, :3] + x[:, 3:])
    torch.testing.assert_close(linearised(nn.Softmax(-1))(x), torch.full_like(x, 0.25))
    mean = x.mean(-2, keepdim=True).expand_as(x)

    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x) - torch.softmax(x @ x.mT, -1) @ x + mean

    torch.testing.assert_close(linearised(Attention())(x), mean)


def test_the_model_is_left_alone() -> None:
    model = sk.sparsify(convnet(), 0.6)
    model(torch.randn(4, 3, 6, 6)).sum().backward()
    state, grads = copy.deepcopy(model.state_dict()), [p.grad.clone() for p in model.parameters()]
    x = torch.randn(4, 3, 6, 6)
    random = torch.get_rng_state()
    flows(model, layers(model), arguments(x))
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads, strict=True))
    assert all(layer.probe is None for layer in layers(model))


def test_wrapped_models_and_outputs_of_several_parts() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.idle, self.two = nn.Linear(3, 4), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
            return {"a": self.one(x), "b": [self.two(y)]}

    model = sk.sparsify(Parts(), 0.2)
    x = torch.randn(5, 3)
    one, idle, two = flows(torch.compile(model), layers(model), arguments((x, x)))
    assert one[0].tolist() == [0.25] * 4
    assert two[0].tolist() == [0.5] * 2
    assert idle[0].sum() == idle[1].sum() == 0


def test_what_no_flow_passes_is_said() -> None:
    model = sk.sparsify(nn.Sequential(*(nn.Linear(64, 64) for _ in range(7))), 0.5)
    with pytest.raises(ValueError, match=r"inputs or embeddings, but the model takes torch.int64"):
        flows(model, layers(model), arguments(torch.ones(1, 64, dtype=torch.int64)))
    for layer in layers(model):
        layer.double().values.data.mul_(1e70)
    with pytest.raises(ValueError, match="exceeds the range of float64"):
        flows(model, layers(model), arguments(torch.ones(1, 64)))

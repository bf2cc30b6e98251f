"""ProsPr on channels: gates against the stored graph, and channels that are really gone, whatever the training does."""

import copy
from collections.abc import Callable

import pytest
import torch
from support.networks import convnet, network
from support.residual import GATES, READERS, TIED, Batch, living, residual, samples
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.nn import channel_groups, prunable_layers


def make(sparsity: float, **options: object) -> sk.Method:
    return sk.methods.prospr_channel(sparsity=sparsity, **options)


def prune(
    model: nn.Module, sparsity: float, batches: list[Batch] | None = None, *, backend: str = "auto", **options: object
) -> nn.Module:
    return sk.sparsify(
        model, make(sparsity, **options), batches=batches or samples(), loss=cross_entropy, backend=backend
    )


def gate_gradients(model: nn.Module, batches: list[Batch], lr: float, momentum: float) -> list[Tensor]:
    """dL(w_M)/dc at c = 1 by differentiating through all steps; c multiplies the rows of every tied layer."""
    gates = [torch.ones(model.get_submodule(names[0]).out_channels, dtype=torch.double) for names in TIED]
    gates = [gate.requires_grad_() for gate in gates]
    values = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    for names, gate in zip(TIED, gates, strict=True):
        for name in names:
            values[f"{name}.weight"] = values[f"{name}.weight"] * gate.view(-1, 1, 1, 1)
    model, velocity = copy.deepcopy(model).train(), dict.fromkeys(values, 0)
    for x, y in batches[:-1]:
        loss = cross_entropy(functional_call(model, values, (x,)), y)
        gradients = torch.autograd.grad(loss, list(values.values()), create_graph=True)
        velocity = {name: momentum * velocity[name] + g for name, g in zip(values, gradients, strict=True)}
        values = {name: value - lr * velocity[name] for name, value in values.items()}
    x, y = batches[-1]
    return list(torch.autograd.grad(cross_entropy(functional_call(model, values, (x,)), y), gates))


@pytest.mark.parametrize(("steps", "momentum"), [(0, 0.0), (1, 0.0), (3, 0.0), (3, 0.9)])
def test_gates_are_those_of_the_stored_graph(steps: int, momentum: float) -> None:
    model, batches = residual(), samples(steps + 1)
    scores = torch.cat([gradient.abs() for gradient in gate_gradients(model, batches, 0.1, momentum)])
    pruned = prune(model, 0.5, batches, inner_steps=steps, momentum=momentum)
    assert torch.equal(torch.cat(living(pruned)), scores >= scores.topk(GATES // 2).values[-1])


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.63])
def test_a_channel_goes_with_all_that_writes_and_reads_it(sparsity: float) -> None:
    pruned = prune(residual(), sparsity)
    masks = {name: layer.topology.mask() for name, layer in prunable_layers(pruned).items()}
    alive = living(pruned)
    assert sum(int(a.sum()) for a in alive) == GATES - int(sparsity * GATES)
    expected = {name: torch.ones_like(mask) for name, mask in masks.items()}
    for writers, readers, mark in zip(TIED, READERS, alive, strict=True):
        for name in writers:
            expected[name][~mark] = False
        for name in readers:
            expected[name][:, ~mark] = False
    expected["head"][:, ~alive[3].repeat_interleave(4)] = False
    assert all(torch.equal(masks[name], mask) for name, mask in expected.items())


def test_the_sum_is_inside_the_absolute_value() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, -3.0], [0.5, 0.0]]))
        model[1].weight.fill_(1.0)
    method = make(0.5, inner_steps=0)
    sk.sparsify(model, method, batches=[(torch.ones(1, 2), torch.zeros(1))], loss=lambda output, _: output.sum())
    assert model[0].topology.mask().tolist() == [[False, False], [True, True]]
    assert model[1].topology.mask().tolist() == [[False, True]]


def train(model: nn.Module, optimizer: str, method: sk.Method, steps: int = 6) -> None:
    options = {"SGD": {"lr": 0.05, "momentum": 0.9, "nesterov": True}, "Adam": {"lr": 0.01}, "AdamW": {"lr": 0.01}}
    inner = getattr(torch.optim, optimizer)(model.parameters(), weight_decay=1e-2, **options[optimizer])
    outer = sk.Sparsifier(model, inner, method)
    model.train()
    for x, y in samples(steps):
        outer.zero_grad()
        cross_entropy(model(x), y).backward()
        outer.step()


def dead_entries(model: nn.Module) -> list[Tensor]:
    """Biases and shifts of the channels that are gone."""
    entries = []
    norms = [["norm", "norm_b"], ["norm_a"], [], []]
    for names, own, alive in zip(TIED, norms, living(model), strict=True):
        biases = [model.get_submodule(name).bias for name in (*names, *own)]
        entries += [bias.detach()[~alive] for bias in biases if bias is not None]
    return entries


@pytest.mark.parametrize(
    ("backend", "optimizer"), [("sparse", "SGD"), ("sparse", "Adam"), ("masked", "AdamW"), ("dense", "SGD")]
)
def test_what_is_gone_stays_gone_in_training(backend: str, optimizer: str) -> None:
    model = prune(residual(), 0.5, backend=backend)
    x = samples(1)[0][0]
    for _ in range(2):
        entries = dead_entries(model)
        assert sum(entry.numel() for entry in entries) > 10
        assert not any(entry.any() for entry in entries)
        train(model, optimizer, make(0.5))
    model.eval()
    with torch.no_grad():
        expected = model(x)
        for norm, group in (("norm", 0), ("norm_a", 1), ("norm_b", 0)):  # whatever they held, nobody would read it
            model.get_submodule(norm).bias[~living(model)[group]] = 100.0
        assert torch.equal(model(x), expected)


def test_layers_outside_the_pruning_keep_their_channels() -> None:
    for exclude, left in ((["head"], [0, 1, 2]), (["b"], [2, 3]), (["e"], [1, 2])):
        method = make(0.5)
        model = sk.sparsify(residual(), method, batches=samples(), loss=cross_entropy, exclude=exclude)
        layers = prunable_layers(model, exclude)
        gone = {n for n, layer in layers.items() if not layer.topology.mask().flatten(1).any(1).all()}
        assert gone <= {name for i in left for name in TIED[i]}
        assert gone


def test_grouped_convolutions_keep_theirs_and_biases_that_stay_are_kept() -> None:
    model = convnet().double()
    biases = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("bias")}
    prune(model, 0.5)
    rows = {name: int(layer.topology.mask().flatten(1).any(1).sum()) for name, layer in prunable_layers(model).items()}
    assert rows == {"0": 8, "3": 12, "6": 12, "7": 5, "11": 5}
    alive = model[7].topology.mask().flatten(1).any(1)
    for name, bias in biases.items():
        mask = alive if name in ("7.bias", "8.bias") else torch.ones_like(bias, dtype=torch.bool)
        assert torch.equal(model.get_parameter(name), bias * mask)


def test_equal_scores_and_the_least_number_per_layer() -> None:
    options: dict = {"batches": samples(), "loss": lambda output, _: 0 * output.sum()}
    model = sk.sparsify(residual(), make(0.5), **options)
    first = next(g for g in channel_groups(residual(), samples()[0][0]) if not g.pinned)
    assert list(first.layers) == TIED[0]
    assert torch.equal(torch.cat(living(model)), torch.arange(GATES) < GATES // 2)
    with pytest.warns(UserWarning, match="layer collapse: .*e, head has no weight left"):
        sk.sparsify(residual(), make(0.6), **options)
    model = sk.sparsify(residual(), make(0.6, min_per_layer=2), **options)
    assert min(int(alive.sum()) for alive in living(model)) == 2
    assert sum(int(alive.sum()) for alive in living(model)) == 12
    with pytest.raises(ValueError, match=r"min_per_layer=5 keeps 20 of 30 channels in 4 groups.* is to leave 12"):
        sk.sparsify(residual(), make(0.6, min_per_layer=5), **options)


def test_already_sparse_and_errors() -> None:
    model = prune(residual(), 0.5)
    before = copy.deepcopy(model.state_dict())
    assert sk.sparsify(model, make(0.5)) is model
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    for net in (nn.Linear(3, 5), nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 5))):
        with pytest.raises(ValueError, match="no channels that can be taken out"):
            prune(net.double(), 0.5, samples(shape=(3,)))

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network().double()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) if x.sum() > 0 else self.net(-x)

    broken = Branching()
    weights = [p.detach().clone() for p in broken.parameters()]
    with pytest.raises(ValueError, match="trace"):
        prune(broken, 0.5, samples(shape=(30,)))
    assert all(torch.equal(a, b) for a, b in zip(weights, broken.parameters(), strict=True))


@pytest.mark.parametrize("make_model", [residual, lambda: convnet().double(), lambda: network().double()])
def test_deterministic(make_model: Callable) -> None:
    model = make_model()
    shape = (30,) if isinstance(model[0] if isinstance(model, nn.Sequential) else None, nn.Linear) else (3, 6, 6)
    twins = [prune(copy.deepcopy(model), 0.4, samples(shape=shape)).state_dict() for _ in range(2)]
    assert all(torch.equal(twins[0][key], twins[1][key]) for key in twins[0])

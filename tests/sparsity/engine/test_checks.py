"""What does not fit is said by name, before or as soon as it matters."""

import warnings

import pytest
import torch
from support.networks import network, start, train
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.nn.functional import cross_entropy

import sparsekern as sk


def sgd(model: nn.Module, **options: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["set", "rigl", "random", "gse_grabo"])
def test_a_sparsity_that_the_method_would_not_reach_is_refused(name: str) -> None:
    method = sk.methods.get(name)(sparsity=0.9, total_steps=60, steps_per_epoch=10)
    model = sk.sparsify(network(), 0.8)
    message = rf"the model has 420 of 2100 weights, a sparsity of 0.8, but {name} keeps the 210 of a sparsity of 0.9"
    with pytest.raises(ValueError, match=message):
        sk.Sparsifier(model, sgd(model), method)


def test_patterns_that_somebody_chose_are_as_they_are() -> None:
    method = sk.methods.set(sparsity=0.9, total_steps=60, every=5)
    masks = {"0": torch.rand(40, 30) < 0.3, "2": torch.rand(20, 40) < 0.3}
    model = sk.sparsify(network(), method, masks=masks)
    sk.Sparsifier(model, sgd(model), method)
    other = sk.sparsify(network(), method, exclude=["4"])
    sk.Sparsifier(other, sgd(other), method)  # what is left out does not count
    other.load_state_dict(model.state_dict())
    optimizer = sk.Sparsifier(other, sgd(other), method)
    assert optimizer.sites[0].nnz == int(masks["0"].sum())
    rising = sk.methods.granet(sparsity=0.9, total_steps=100)
    model = sk.sparsify(network(), 0.7)
    sk.Sparsifier(model, sgd(model), rising)


def test_rules_that_leave_vectors_without_decay_are_noticed() -> None:
    method = sk.methods.random(sparsity=0.8)
    model = sk.sparsify(nn.Sequential(nn.Linear(9, 8), nn.LayerNorm(8), nn.Linear(8, 4)), method)

    def groups(*decayed: nn.Parameter) -> list[dict]:
        own = {id(p) for p in decayed}
        rest = [p for p in model.parameters() if id(p) not in own]
        return [{"params": list(decayed), "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]

    named = list(model.named_parameters())
    by_dimension = groups(*(p for _, p in named if p.dim() > 1), model[0].bias)
    right = groups(*(p for n, p in named if p.dim() > 1 or n.endswith("values")))
    with pytest.warns(
        UserWarning, match=r"decays no weight of the sparse layers 0, 2: .*endswith\(\"values\"\)"
    ) as told:
        sk.Sparsifier(model, torch.optim.AdamW(by_dimension), method)
    assert len(told) == 1
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sk.Sparsifier(model, torch.optim.AdamW(right), method)
        sk.Sparsifier(model, torch.optim.AdamW(model.parameters(), weight_decay=0.0), method)


def test_assigned_state_and_groups_reach_the_optimizer() -> None:
    model, optimizer, x, y = start("set")
    train(model, optimizer, x, y, 2)
    inner = optimizer.optimizer
    optimizer.state = state = type(inner.state)(dict, {p: dict(s) for p, s in inner.state.items()})
    assert inner.state is state
    optimizer.param_groups = groups = [dict(group, lr=0.0) for group in inner.param_groups]
    assert inner.param_groups is groups
    before = [p.clone() for p in model.parameters()]
    optimizer.zero_grad()
    cross_entropy(model(x), y).backward()
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", ["set", "snr", "dpf"])
def test_a_layer_that_is_unfrozen_behind_the_optimizers_back_is_named(name: str) -> None:
    method = sk.methods.get(name)(sparsity=0.8, total_steps=60, steps_per_epoch=20)
    model = sk.sparsify(network(), method)
    model[0].stored.requires_grad_(False)
    optimizer = sk.Sparsifier(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1), method)
    x, y = torch.randn(16, 30), torch.randint(5, (16,))
    train(model, optimizer, x, y, 2)
    model[0].stored.requires_grad_(True)
    with pytest.raises(ValueError, match=r"0 is trained, but the optimizer does not hold .*add_param_group"):
        train(model, optimizer, x, y, 1)
    assert optimizer.steps == 2
    optimizer.add_param_group({"params": [model[0].stored]})
    train(model, optimizer, x, y, 1)
    assert optimizer.steps == 3


def test_sharded_weights_are_named_where_patterns_change() -> None:
    model, optimizer, *_ = start("set")
    method, model[2].values.data = optimizer.method, torch.empty(0)  # as FSDP leaves it on a rank without a share
    with pytest.raises(ValueError, match=r"the weight of 2 is sharded .*ignored_params"):
        sk.Sparsifier(model, optimizer.optimizer, method)


def test_parts_of_the_state_are_refused() -> None:
    model, optimizer, x, y = start("set")
    train(model, optimizer, x, y, 2)
    with pytest.raises(RuntimeError, match=r"save and load Sparsifier.state_dict\(\) itself"):
        get_optimizer_state_dict(model, optimizer)
    state = get_optimizer_state_dict(model, optimizer.optimizer)
    with pytest.raises(RuntimeError, match=r"save and load Sparsifier.state_dict\(\) itself"):
        set_optimizer_state_dict(model, optimizer, state)


OPTIMIZERS = [
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "Adamax",
    "AdamW",
    "ASGD",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
]


@pytest.mark.filterwarnings("ignore:.*(collapse|fewer than three)")
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("method", ["oneshot_ft", "rewind", "set"])
def test_every_optimizer_goes_on_after_a_change_with_convolutions_of_one_and_empty_layers(
    method: str, name: str
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Tanh(), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(20, 4))
    with torch.no_grad():
        net[2].weight.mul_(1e-6)  # pruned as a whole
    options = {"step": 2} if method == "rewind" else {"every": 2} if method == "set" else {}
    chosen = sk.methods.get(method)(sparsity=0.8, total_steps=12, **options)
    masks = {"0": torch.rand(6, 3, 1, 1) < 0.5, "2": torch.zeros(5, 6, 3, 3) > 0, "4": torch.rand(4, 20) < 0.5}
    model = sk.sparsify(net, chosen, masks=masks if method == "set" else None)
    kind = getattr(torch.optim, name)
    optimizer = sk.Sparsifier(model, kind(model.parameters(), lr=1e-3), chosen)
    train(model, optimizer, torch.randn(8, 3, 4, 4), torch.randint(4, (8,)), 12)
    sizes = [(site.nnz, site.parameter.numel()) for site in optimizer.sites]
    assert sizes[1][0] == 0
    assert all(nnz == room for nnz, room in sizes[::2])
    for site in optimizer.sites[::2]:
        state = optimizer.state[site.parameter]
        assert all(t.shape in ((), site.parameter.shape) for t in state.values() if isinstance(t, torch.Tensor))
        assert site.parameter.isfinite().all()


@pytest.mark.parametrize("minimum", [1, 2, 7])
@pytest.mark.parametrize("name", ["dnw", "dpf_layerwise"])
def test_counts_are_exact_with_a_minimum_in_every_layer(name: str, minimum: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 2), nn.ReLU(), nn.Linear(2, 10))
    method = sk.methods.get(name)(sparsity=0.9, total_steps=12, steps_per_epoch=2, min_per_layer=minimum)
    x, y = torch.randn(16, 40), torch.randint(10, (16,))
    model = sk.sparsify(net, method)
    optimizer = sk.Sparsifier(model, sgd(model), method)
    train(model, optimizer, x, y, 12)
    counts, size = [site.nnz for site in optimizer.sites], sum(site.size for site in optimizer.sites)
    assert sum(counts) == size - int(0.9 * size + 1e-9)
    assert min(counts) >= minimum

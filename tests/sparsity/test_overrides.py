"""Settings of some layers: sparsity, distribution, exclusion and method by name, glob or class."""

import copy
import pickle
from typing import Any

import pytest
import torch
from support.networks import layers
from support.trajectories import EMERGENT, SPARSE, batches, make, network, step
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune

import sparsekern as sk
from sparsekern.nn import PatternLayer, prunable_layers
from sparsekern.sparsity import schedules
from sparsekern.topology import nnz_at

SGD = {"lr": 0.05, "momentum": 0.9}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"q": nn.Linear(16, 16), "proj": nn.Linear(16, 24)})
        self.mlp = nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attn["proj"](self.attn["q"](x)).tanh())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 4)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).flatten(1)))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def counts(model: nn.Module) -> dict[str, int]:
    return {name: layer.topology.nnz for name, layer in model.named_modules() if isinstance(layer, PatternLayer)}


def sizes(model: nn.Module) -> dict[str, int]:
    return {n: m.weight.numel() for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}


ATTENTION = [f"blocks.{i}.attn.{name}" for i in (0, 1) for name in ("q", "proj")]


# ---- which layers


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"head": 0.5}, {"head": 0.5}),
        ({"blocks.1": 0.5}, {f"blocks.1.{name}": 0.5 for name in ("attn.q", "attn.proj", "mlp")}),
        ({"*.attn.*": 0.5}, dict.fromkeys(ATTENTION, 0.5)),
        ({nn.Conv2d: 0.5}, {"stem": 0.5}),
        ({nn.ModuleDict: 0.5}, dict.fromkeys(ATTENTION, 0.5)),
        # the name before globs, the nearest name, the first glob, globs before classes, the nearest class
        ({"head*": 0.4, "blocks": 0.5, "blocks.0.attn.q": 0.6, "blocks.1.attn": 0.7}, {
            **dict.fromkeys([*ATTENTION, "blocks.0.mlp", "blocks.1.mlp"], 0.5),
            "blocks.0.attn.q": 0.6, "blocks.1.attn.q": 0.7, "blocks.1.attn.proj": 0.7, "head": 0.4,
        }),
        ({"*q": 0.4, "*attn*": 0.5}, dict(zip(ATTENTION, [0.4, 0.5] * 2, strict=True))),
        ({nn.Linear: 0.4, "blocks*": 0.5, Block: 0.6, nn.Conv2d: 0.7}, None),
        ({Block: 0.4, nn.ModuleDict: 0.5, nn.Conv2d: 0.7}, {
            **dict.fromkeys(ATTENTION, 0.5), "blocks.0.mlp": 0.4, "blocks.1.mlp": 0.4, "stem": 0.7,
        }),
    ],
    ids=str,
)  # fmt: skip
def test_which_layers_an_override_takes(overrides: dict, expected: dict | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="the layers of 'Block' all fall under 'blocks\\*': names count before"):
            sk.sparsify(net(), 0.9, overrides=overrides)
        return
    found = counts(sk.sparsify(net(), 0.9, overrides=overrides, distribution="uniform"))
    whole = sizes(net())
    for sparsity in {*expected.values(), 0.9}:
        own = [name for name in whole if expected.get(name, 0.9) == sparsity]
        assert sum(found[name] for name in own) == nnz_at(sparsity, sum(whole[name] for name in own))
        assert all(abs(found[name] - (1 - sparsity) * whole[name]) < 1 for name in own)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"haed": 0.5}, "'haed' matches none of the layers; did you mean 'head'?"),
        ({"*.atn.*": 0.5}, r"'\*.atn.\*' matches none of the layers; did you mean '\*.attn.\*'?"),
        ({"block.0": 0.5}, "did you mean 'blocks.0'?"),
        ({"x": 0.5}, "'x' matches none of the layers stem, blocks.0.attn.q"),
        ({nn.Conv1d: 0.5}, "none of the layers is a Conv1d or lies in one; their classes are Conv2d, Linear"),
        ({"*": 0.5, "*.attn.*": 0.8}, r"the layers of '\*.attn.\*' all fall under '\*'"),
        ({7: 0.5}, "overrides takes names, globs and classes of modules, got 7"),
        ({"head": 1.5}, r"sparsity must lie in \[0, 1\), got 1.5"),
        ({"head": "dense"}, "'head' takes a sparsity, None, a Method"),
        ({"head": True}, "'head' takes a sparsity, None, a Method"),
        ({"head": {"density": 0.5}}, "'head' takes a sparsity, None, a Method"),
        ({"head": {"sparsity": 0.5, "distribution": "erx"}}, "distribution must be one of"),
        ({"head": sk.methods.fixed()}, "fixed keeps a pattern that is there"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_what_is_refused(overrides: dict, message: str) -> None:
    model = net()
    with pytest.raises(ValueError, match=message):
        sk.sparsify(model, 0.9, overrides=overrides)
    assert not layers(model)


def test_dense_by_override_and_nothing_but_overrides() -> None:
    model = sk.sparsify(net(), sk.methods.dpf(0.9, 30, 3), overrides={"blocks.*": 0.5, "stem": None})
    assert list(counts(model)) == [name for name in sizes(net()) if name.startswith("blocks")]
    model = sk.sparsify(net(), overrides={"head": 0.5})
    assert counts(model) == {"head": 40}
    assert counts(sk.sparsify(net(), sk.methods.dense(), overrides={"head": 0.5})) == {"head": 40}
    model = sk.sparsify(net(), 0.5, overrides={"head": 0.9}, exclude="head")
    assert "head" not in counts(model)
    for name in ("snr", "str"):
        with pytest.raises(ValueError, match=f"{name} reaches no sparsity that it is given"):
            sk.sparsify(net(), make(name), overrides={"head": 0.5})


def test_a_group_has_a_distribution_of_its_own() -> None:
    whole, method = sizes(net()), sk.methods.random(0.9, share="uniform")
    model = sk.sparsify(net(), method, overrides={"*.attn.*": {"sparsity": 0.7, "distribution": "erk"}})
    own = [tuple(dict(net().named_modules())[name].weight.shape) for name in ATTENTION]  # type: ignore[union-attr,arg-type]
    total = nnz_at(0.7, sum(whole[name] for name in ATTENTION))
    assert [counts(model)[name] for name in ATTENTION] == sk.sparsity.distributions.erk(own, total)
    only = sk.sparsify(net(), method, overrides={"*.attn.*": {"distribution": "erk"}})
    assert sum(counts(only)[name] for name in ATTENTION) == nnz_at(0.9, sum(whole[name] for name in ATTENTION))


def test_scores_compete_within_a_group() -> None:
    """Magnitudes of the network, those of an override by themselves; checked against a sort."""
    dense = net()
    model = sk.sparsify(net(), sk.methods.magnitude_init(0.8), overrides={"*.attn.*": 0.5})
    for sparsity, inside in ((0.5, True), (0.8, False)):
        names = [name for name in sizes(dense) if (name in ATTENTION) == inside]
        weights = torch.cat([dense.get_submodule(name).weight.detach().flatten() for name in names])  # type: ignore[operator,union-attr]
        masks = torch.cat([model.get_submodule(name).topology.mask().flatten() for name in names])  # type: ignore[operator,union-attr]
        smallest = weights.abs().sort(descending=True).values[nnz_at(sparsity, len(weights)) - 1]
        assert torch.equal(masks, weights.abs() >= smallest)


# ---- methods


def prepared(method: sk.Method, overrides: Any, build: Any = None, **options: Any) -> tuple[nn.Module, sk.Sparsifier]:
    torch.manual_seed(3)
    growth: dict[str, Any] = {"batches": batches("linear", 4), "loss": cross_entropy}
    model = sk.sparsify(network("linear"), method, overrides=overrides, **growth, **options)
    build = build or (lambda p: torch.optim.SGD(p, **SGD))
    return model, sk.Sparsifier(model, build(model.parameters()), method, **growth)


ROUNDS = ("lottery", "rewind")  # whose steps depend on the sparsity


@pytest.mark.parametrize("name", [name for name in SPARSE if name not in EMERGENT])
def test_an_override_of_every_layer_is_the_method_at_that_sparsity(name: str) -> None:
    """Bit for bit, whatever the method: random, scored, scheduled, with rules or masks of its own."""
    runs = []
    for method, overridden in ((make(name), False), (make(name, sparsity=0.9), True)):
        reference = method.start.scope(prunable_layers(network("linear")))
        overrides = {f"[{''.join(reference)}]": 0.7} if overridden else {}
        model, sparsifier = prepared(method, overrides)
        for batch in batches("linear"):
            step(model, sparsifier, batch)
        runs.append((model.state_dict(), sparsifier))
    (first, one), (second, other) = runs
    if name in ROUNDS:
        assert sum(site.nnz for site in one.sites) == sum(site.nnz for site in other.sites)
        return
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", [name for name in SPARSE if name not in EMERGENT])
def test_every_group_is_exact_and_resumes_bit_for_bit(name: str) -> None:
    method, data = make(name), batches("linear")
    overrides = {"[02]": 0.5}
    build = lambda p: torch.optim.Adam(p, lr=0.01)  # noqa: E731
    model, sparsifier = prepared(method, overrides, build)
    for t, batch in enumerate(data):
        if t == 11:
            saved = copy.deepcopy((model.state_dict(), sparsifier.state_dict()))
            copied = pickle.loads(pickle.dumps((model, sparsifier)))
        step(model, sparsifier, batch)
        groups = sparsifier.engine.by_method(sparsifier.sites)
        for own, sites in groups:
            last = t + (method.order == "before")
            if method.order == "before":
                last = max((i for i in range(last + 1) if method.when.fires(i)), default=0)
            if not method.view.filters:
                assert sum(site.nnz for site in sites) == nnz_at(own.sparsity(last), sum(site.size for site in sites))
    assert {site.name for own, sites in groups for site in sites if own is not method} == {"0", "2"}
    resumed, continuation = prepared(method, overrides, build)
    resumed.load_state_dict(saved[0])
    continuation.load_state_dict(saved[1])
    for other, its in ((resumed, continuation), copied):
        for batch in data[11:]:
            step(other, its, batch)
        first, second = model.state_dict(), other.state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert str(its.report()) == str(sparsifier.report())


def test_a_composition_of_ones_own_is_scaled() -> None:
    method = sk.Method("own", schedules.cubic(0.9, 12, 4), schedules.Cadence(4), storage="master")
    model, sparsifier = prepared(method, {"2": 0.6})
    for t, batch in enumerate(batches("linear")):
        step(model, sparsifier, batch)
        sparsity = 0.6 / 0.9 * schedules.cubic(0.9, 12, 4)(t + 1) if t < 11 else 0.6
        assert sparsifier.sites[1].nnz == nnz_at(sparsity, 300)


def test_zeros_that_are_there_with_overrides() -> None:
    def pruned() -> Net:
        model = net()
        for name in ("blocks.0.mlp", "blocks.1.mlp", "head"):
            prune.l1_unstructured(model.get_submodule(name), "weight", amount=0.5)
        return model

    method = sk.methods.gmp(0.9, 20, 5)
    model = sk.sparsify(pruned(), masks="nonzero", overrides={"blocks.1.mlp": method, "*.q": method, "head": None})
    assert counts(model) == {"blocks.0.mlp": 192, "blocks.1.mlp": 192, "blocks.0.attn.q": 256, "blocks.1.attn.q": 256}
    assert prune.is_pruned(model.head)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), **SGD), method, layers=["*.q", "*.mlp"])
    assert len(optimizer.sites) == 4
    with pytest.raises(ValueError, match="fixed reaches no sparsity that it is given"):
        sk.sparsify(pruned(), masks="nonzero", overrides={"stem": 0.5})

"""What `sparsify` and `densify` do with a model beside its weights: references, hooks, marks, tracing."""

from collections import OrderedDict, namedtuple
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.networks import network
from torch import Tensor, fx, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk

METHODS: dict[str, Any] = {
    "nonzeros": lambda: sk.methods.set(sparsity=0.5, total_steps=30, every=2),
    "master": lambda: sk.methods.dpf(sparsity=0.5, total_steps=30, steps_per_epoch=3, every=2),
    "stashed": lambda: sk.methods.snr_frozen(sparsity=0.5, total_steps=30, steps_per_epoch=3),
}
storages = pytest.mark.parametrize("storage", METHODS)
Pair = namedtuple("Pair", "name layer")


class Held(nn.Module):
    """Calls its layers through something else than its modules."""

    def __init__(self, hold: Any) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.holder = hold(self.one, self.two)
        self.dense = 0

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.each():
            self.dense += type(layer) is nn.Linear
            x = layer(x).relu()
        return self.head(x)

    def each(self) -> list[Any]:
        def flat(held: Any) -> list[Any]:
            if callable(held):
                return [held]
            if isinstance(held, SimpleNamespace):
                return flat(list(vars(held).values()))
            parts = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple | set) else ()
            return [layer for part in parts for layer in flat(part)]

        return sorted(flat(self.holder), key=lambda layer: getattr(layer, "in_features", 0))


CONTAINERS: dict[str, Any] = {
    "list": lambda *own: list(own),
    "tuple": lambda *own: own,
    "dict": lambda *own: dict(enumerate(own)),
    "set": lambda *own: set(own),
    "named tuple": lambda one, two: [Pair("one", one), Pair("two", two)],
    "nested": lambda one, two: {"a": [(one, {"b": two})]},
}
OBJECTS: dict[str, Any] = {
    "object": lambda one, two: SimpleNamespace(one=one, two=two),
    "bound method": lambda one, two: [one.forward, two],
    "partial": lambda one, two: [partial(one), two],
}


def started(storage: str, model: nn.Module, **options: Any) -> tuple[nn.Module, sk.Sparsifier]:
    method = METHODS[storage]()
    model = sk.sparsify(model, method, **options)
    return model, sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method)


@pytest.mark.filterwarnings("ignore")
@storages
@pytest.mark.parametrize("container", CONTAINERS)
def test_layers_in_containers_are_exchanged_as_well(storage: str, container: str) -> None:
    model, optimizer = started(storage, Held(CONTAINERS[container]))
    before = [site.parameter.detach().clone() for site in optimizer.sites]
    cross_entropy(model(torch.randn(8, 6)), torch.arange(8) % 3).backward()
    optimizer.step()
    assert model.dense == 0
    assert not any(torch.equal(site.parameter, old) for site, old in zip(optimizer.sites, before, strict=True))
    dense = sk.densify(model)
    dense(torch.randn(8, 6))
    assert dense.dense == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["object", "partial"])
def test_a_call_of_a_layer_that_was_exchanged_is_refused(name: str) -> None:
    model, _ = started("nonzeros", Held(OBJECTS[name]))
    with pytest.raises(RuntimeError, match="still calls the layer that one was"):
        model(torch.randn(8, 6))
    model.holder = [model.one, model.two]
    model(torch.randn(8, 6))


@storages
def test_a_bound_method_of_a_layer_that_was_exchanged_is_found_in_the_first_step(storage: str) -> None:
    """No hook sees a call of `forward`; the gradient of the dense weight does."""
    model, optimizer = started(storage, Held(OBJECTS["bound method"]), exclude=["two"])
    cross_entropy(model(torch.randn(8, 6)), torch.arange(8) % 3).backward()
    with pytest.raises(RuntimeError, match="dense originals of one computed in this step"):
        optimizer.step()


def test_others_may_call_what_was_exchanged() -> None:
    """A dense reference that holds the same layers; gradients from before; layers that nothing uses."""
    own = [nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)]
    dense, model = nn.Sequential(*own), nn.Sequential(OrderedDict(a=own[0], unused=own[1], b=own[2]))
    for layer in own:
        layer(torch.randn(4, 6)).sum().backward()
    model.forward = lambda x: model.b(model.a(x))  # type: ignore[method-assign]
    x = torch.randn(4, 6)
    expected = dense(x)
    model, optimizer = started("nonzeros", model)
    model(x).sum().backward()
    torch.testing.assert_close(dense(x), expected)
    optimizer.step()
    optimizer.zero_grad()
    assert "no gradient has reached unused" in str(optimizer.report())


def marked() -> tuple[nn.Sequential, list[str], list[Any]]:
    """A model with attributes and hooks of all kinds on its first layer, what they were called for, their handles."""
    model, calls = network(), []
    layer: Any = model[0]
    layer.note, layer.weight.no_weight_decay, layer.bias._is_hf_initialized = "mine", True, True
    layer.register_buffer("seen", torch.tensor(3))
    layer.register_buffer("scratch", torch.tensor(4), persistent=False)
    layer.adapter = nn.Linear(30, 2, bias=False)
    layer.gain = nn.Parameter(torch.ones(1))
    layer.describe = layer.extra_repr
    handles = [
        layer.register_forward_pre_hook(lambda *_: calls.append("pre")),
        layer.register_forward_hook(lambda *_, **__: calls.append("forward"), with_kwargs=True, always_call=True),
        layer.register_full_backward_hook(lambda *_: calls.append("backward")),
        layer.register_full_backward_pre_hook(lambda *_: calls.append("backward pre")),
        layer.bias.register_hook(lambda _: calls.append("bias")),
        layer.bias.register_post_accumulate_grad_hook(lambda _: calls.append("accumulated")),
    ]
    layer.register_state_dict_post_hook(lambda module, *_: calls.append(type(module).__name__))
    layer.register_load_state_dict_pre_hook(lambda module, *_: calls.append(f"load {type(module).__name__}"))
    model[2].bias.requires_grad_(False)
    return model.eval(), calls, handles


@storages
def test_hooks_attributes_and_marks_stay(storage: str) -> None:
    model, calls, handles = marked()
    model, _ = started(storage, model, exclude=["4", "0.adapter"])
    for kind in ("sparse", "dense"):
        layer: Any = model[0]
        calls.clear()
        model(torch.randn(4, 30, requires_grad=True)).sum().backward()
        assert sorted(calls) == sorted(["pre", "forward", "backward pre", "backward", "bias", "accumulated"])
        calls.clear()
        model.load_state_dict(model.state_dict())
        assert calls == [type(layer).__name__, f"load {type(layer).__name__}"]
        assert layer.note == "mine"
        assert (layer.stored if kind == "sparse" else layer.weight).no_weight_decay
        assert layer.bias._is_hf_initialized
        assert layer.describe() == layer.extra_repr()
        assert {"0.seen", "0.gain", "0.adapter.weight"} <= model.state_dict().keys()
        assert int(layer.scratch) == 4
        assert "0.scratch" not in model.state_dict()
        assert not any(module.training for module in model.modules() if module is not layer.adapter)
        assert not model[2].bias.requires_grad
        if kind == "sparse":
            model = sk.densify(model)
    assert vars(model[0]).keys() == vars(marked()[0][0]).keys()
    for handle in handles:
        handle.remove()
    calls.clear()
    model(torch.randn(4, 30, requires_grad=True)).sum().backward()
    assert not calls


def test_a_densified_layer_forgets_where_its_pattern_came_from() -> None:
    """What sparsify notes of a layer is no attribute of the user's."""
    model = sk.sparsify(nn.Linear(8, 8), 0.5, masks={"": torch.eye(8, dtype=torch.bool)})
    dense = sk.densify(model)
    assert vars(dense).keys() == vars(nn.Linear(8, 8)).keys()
    model = sk.sparsify(dense, sk.methods.random(0.5))
    with pytest.raises(ValueError, match="the model has 32 of 64 weights"):
        sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), sk.methods.random(0.9))


def test_layers_within_layers() -> None:
    model: Any = network()
    model[0].adapter = nn.Linear(30, 20)
    model = sk.sparsify(model, 0.5)
    assert isinstance(model[0].adapter, sk.SparseLinear)
    assert (
        sum(m.topology.nnz for m in model.modules() if isinstance(m, sk.SparseLinear)) == (1200 + 600 + 800 + 100) / 2
    )


@pytest.mark.parametrize("storage", ["nonzeros", "master"])
def test_hooks_of_weights(storage: str) -> None:
    """They go with a weight of the same shape, and are missed aloud otherwise."""
    seen = []
    model = network()
    model[0].weight.register_hook(lambda gradient: seen.append(gradient.shape))
    if storage == "nonzeros":
        with pytest.warns(UserWarning, match=r"gradient of 0's weight has another shape now"):
            started(storage, model)
        return
    model, _ = started(storage, model)
    model(torch.randn(4, 30)).sum().backward()
    assert seen == [(40, 30)]


@pytest.mark.parametrize("name", ["gmp", "dpf"])
def test_marks_stay_when_training_replaces_parameters(name: str) -> None:
    """Pruning gives room back, and settling makes nonzeros of masters."""
    model = network()
    for layer in (model[0], model[2]):
        layer.weight.no_weight_decay = True
    method = sk.methods.get(name)(sparsity=0.9, total_steps=12, steps_per_epoch=3, every=2)
    model = sk.sparsify(model, method)
    first = model[0].stored
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    for _ in range(12):
        optimizer.zero_grad()
        model(torch.randn(4, 30)).square().sum().backward()
        optimizer.step()
    optimizer.freeze()
    assert model[0].stored is not first
    assert [hasattr(model[i].stored, "no_weight_decay") for i in (0, 2)] == [True, True]


def test_a_layer_with_a_forward_of_its_own_stays_dense() -> None:
    model = network()
    model[0].forward = lambda x, forward=model[0].forward: 2 * forward(x)
    with pytest.warns(UserWarning, match=r"1 Linear with 57.1% \(0\): its forward is replaced"):
        sk.sparsify(model, 0.5)
    assert [type(model[i]) for i in (0, 2, 4)] == [nn.Linear, sk.SparseLinear, sk.SparseLinear]


@storages
def test_fx_keeps_layers_whole(storage: str) -> None:
    """Also after the pattern has changed."""
    model, optimizer = started(storage, network())
    traced = fx.symbolic_trace(model)
    x = torch.randn(4, 30)
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(traced(x), torch.arange(4)).backward()
        optimizer.step()
    assert [n.op for n in traced.graph.nodes if n.op != "call_module"] == ["placeholder", "output"]
    assert torch.equal(traced(x), model(x))


def test_features_of_a_sparse_network() -> None:
    torchvision, extraction = (pytest.importorskip(f"torchvision{end}") for end in ("", ".models.feature_extraction"))
    model = sk.sparsify(torchvision.models.resnet18(num_classes=10), 0.9).eval()
    x = torch.randn(1, 3, 32, 32)
    features = extraction.create_feature_extractor(model, ["layer2.0.conv1", "fc"])(x)
    seen = []
    model.layer2[0].conv1.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    assert torch.equal(features["fc"], model(x))
    assert torch.equal(features["layer2.0.conv1"], seen[0])

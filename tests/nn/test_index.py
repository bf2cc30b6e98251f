"""The index of a layer: no buffer, yet it moves, is copied and saved with the layer."""

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparsekern as sk

LAYERS: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {
    "sparse linear": (sk.SparseLinear, (40, 24), (3, 40)),
    "sparse conv": (sk.SparseConv2d, (4, 6, 3), (2, 4, 7, 7)),
    "masked linear": (sk.MaskedLinear, (40, 24), (3, 40)),
    "masked conv": (sk.MaskedConv2d, (4, 6, 3), (2, 4, 7, 7)),
}


@pytest.fixture(params=LAYERS)
def case(request: pytest.FixtureRequest) -> tuple[Any, Tensor]:
    """A constructor, to be called with `sparsity`, and an input."""
    kind, arguments, shape = LAYERS[request.param]
    return lambda **options: kind(*arguments, **options), torch.randn(shape)


def dense_output(layer: Any, x: Tensor) -> Tensor:
    return layer.to_dense()(x)


def test_no_buffer_holds_the_index(case: tuple[Any, Tensor]) -> None:
    layer = case[0](sparsity=0.7)
    assert not list(layer.buffers())
    assert {"row_ptr", "col"} <= set(layer.state_dict())


@pytest.mark.parametrize("backend", ["sparse", "dense", "masked"])
def test_an_average_of_parameters_and_buffers_keeps_the_pattern(case: tuple[Any, Tensor], backend: str) -> None:
    make, x = case
    norm = nn.BatchNorm1d(24) if x.dim() == 2 else nn.BatchNorm2d(6)
    model = nn.Sequential(make(sparsity=0.7, backend=backend), norm)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    expected = model[0].stored.detach().clone()
    for step in range(8):
        with torch.no_grad():
            model[0].stored.add_(torch.randn_like(expected))
        average.update_parameters(model)
        expected = model[0].stored.detach().clone() if step == 0 else 0.9 * expected + 0.1 * model[0].stored.detach()
    follower: Any = average.module
    assert follower[0].topology.same_pattern(model[0].topology)
    twin = copy.deepcopy(model[0])
    twin.stored.data.copy_(expected)
    torch.testing.assert_close(follower[0](x), dense_output(twin, x))
    torch.testing.assert_close(model[0](x), dense_output(model[0], x))


def test_an_average_of_the_state_dict_keeps_the_pattern(case: tuple[Any, Tensor]) -> None:
    """As timm's ModelEmaV2 blends: every tensor of the state dict in place, integers truncated."""
    make, x = case
    model = make(topology=sk.Topology.random(make(sparsity=0.5).weight_shape, 50, capacity=80))
    follower = copy.deepcopy(model)
    with torch.no_grad():
        model.stored.add_(1.0)
        expected = 0.9999 * follower.stored + 0.0001 * model.stored
        for own, other in zip(follower.state_dict().values(), model.state_dict().values(), strict=True):
            own.copy_(0.9999 * own + 0.0001 * other)
    assert follower.topology.same_pattern(model.topology)
    used = slice(None) if isinstance(model, sk.MaskedLinear | sk.MaskedConv2d) else slice(50)
    torch.testing.assert_close(follower.stored[used], expected[used])
    torch.testing.assert_close(follower(x), dense_output(follower, x))


def test_copies_own_their_index(case: tuple[Any, Tensor]) -> None:
    make, x = case
    layer = make(sparsity=0.7)
    twin = copy.deepcopy(layer)
    assert not {t.data_ptr() for t in layer.index if t.numel()} & {t.data_ptr() for t in twin.index if t.numel()}
    assert torch.equal(layer(x), twin(x))


def test_copies_lose_their_memory_and_get_another(case: tuple[Any, Tensor]) -> None:
    make, x = case
    twin = copy.deepcopy(make(sparsity=0.7)).to("meta").double().to_empty(device="cpu")
    assert twin.stored.dtype == torch.double
    twin.reset_parameters()
    torch.testing.assert_close(twin(x.double()), dense_output(twin, x.double()))


def test_followers_own_their_index() -> None:
    method = sk.methods.set(sparsity=0.7, total_steps=20, every=2)
    model = sk.sparsify(nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4)), method)
    follower = copy.deepcopy(model)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method, followers=[follower])
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(8, 20)).square().mean().backward()
        optimizer.step()
    for ours, theirs in ((model[0], follower[0]), (model[2], follower[2])):
        assert ours.topology.same_pattern(theirs.topology)
        assert ours.col.data_ptr() != theirs.col.data_ptr()


def test_files_hold_the_nonzeros_only(case: tuple[Any, Tensor], tmp_path: Any) -> None:
    make, x = case
    shape = make(sparsity=0.5).weight_shape
    roomy = make(topology=sk.Topology.random(shape, 50, capacity=80))
    state, name = roomy.state_dict(), roomy.WEIGHT
    if name == "values":
        assert state[name].untyped_storage().nbytes() == 50 * 4
        state[name].mul_(2)  # it is the Parameter's memory, as in every state dict
        assert torch.equal(state[name], roomy.values[:50])
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in state.values())
    save_model(roomy, str(tmp_path / "model.safetensors"))
    other = make(sparsity=0.9)
    load_model(other, str(tmp_path / "model.safetensors"))
    assert torch.equal(other(x), roomy(x))


def test_a_weight_without_memory_has_a_real_pattern(case: tuple[Any, Tensor]) -> None:
    make, x = case
    saved = make(sparsity=0.6)
    layer = make(sparsity=0.8, device="meta")
    assert layer.topology.device.type == "cpu"
    assert f"nnz={layer.topology.nnz}, " in repr(layer)
    assert layer(x.to("meta")).shape == saved(x).shape
    layer.load_state_dict(saved.state_dict(), assign=True)
    assert torch.equal(layer(x), saved(x))
    with torch.device("meta"):
        empty = make(sparsity=0.8)
    filled = empty.to_empty(device="cpu")
    filled.reset_parameters()
    torch.testing.assert_close(filled(x), dense_output(filled, x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_traces(case: tuple[Any, Tensor]) -> None:
    make, x = case
    layer = make(sparsity=0.7).requires_grad_(False)
    traced: Any = torch.jit.trace(layer, x)
    other = torch.randn_like(x)
    assert torch.equal(traced(other), layer(other))


def test_a_layer_pickled_by_version_0_1_loads(case: tuple[Any, Tensor]) -> None:
    make, x = case
    layer = make(sparsity=0.7)
    old = dict(layer.__getstate__())
    names = ("row_ptr", "col", "t_ptr", "t_row", "t_pos", "tile_ptr", "t_tile_ptr", "bits")
    index = layer.topology.with_views(frozenset({"csc", "bitmask"})).index
    old["_buffers"] = {**old["_buffers"], **dict(zip(names, index, strict=True))}
    del old["_index"]
    old["_non_persistent_buffers_set"] = set(names)
    old["_topology"] = None
    new = type(layer).__new__(type(layer))
    new.__setstate__(copy.deepcopy(old))
    assert not list(new.buffers())
    assert new.topology.same_pattern(layer.topology)
    assert torch.equal(new(x), layer(x))

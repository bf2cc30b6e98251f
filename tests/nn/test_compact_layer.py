"""Linear layers whose index is compact, narrow or in tiles: whatever reads their columns gets the right ones."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from support.trajectories import NAMES, OPTIMIZERS, batches, prepare, step
from torch import Tensor, nn

import sparsekern as sk
from sparsekern import ops
from sparsekern.nn import crossovers
from sparsekern.ops.library import OPERATORS
from sparsekern.topology import NARROW, PACKED, TILES, Topology


@pytest.fixture(autouse=True, params=["csr", "tiled"])
def form(request: pytest.FixtureRequest, tables: Any) -> frozenset[str]:
    """What layers hold of the pattern, by the kernel that they take."""
    tables(request.param)
    return TILES if request.param == "tiled" else NARROW


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets layers take this kernel, whatever their density."""

    def take(kernel: str) -> None:
        row = {"rows": 64, "cols": 64, "batch": 128, "dtype": "float32", "above": {"csr": 0.0, kernel: 0.0}}
        monkeypatch.setattr(crossovers, "rows", lambda kind, dtype: [row])

    return take


@pytest.fixture
def mask() -> Tensor:
    """Of several tiles, with an empty row and an empty column."""
    mask = torch.rand(150, 310, generator=torch.Generator().manual_seed(3)) < 0.2
    mask[7], mask[:, 11] = False, False
    return mask


@pytest.fixture(params=[sk.SparseLinear, sk.MaskedLinear])
def pair(request: pytest.FixtureRequest, mask: Tensor, form: frozenset[str]) -> tuple[Any, nn.Linear]:
    """A layer with slack, and the dense one with its weight."""
    dense = nn.Linear(310, 150, dtype=torch.float64)
    topology = Topology.from_mask(mask, capacity=int(mask.sum()) + 9)
    layer = request.param.from_topology(dense, topology)
    with torch.no_grad():
        dense.weight.mul_(mask)
    assert (layer.topology.views, layer.index.col.shape) == (form, (topology.capacity, 0))
    return layer, dense


def compare(layer: Any, dense: nn.Linear, mask: Tensor) -> None:
    """Output and gradients."""
    x = torch.randn(5, 310, dtype=torch.float64, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    delta = torch.randn(5, 150, dtype=torch.float64)
    layer.zero_grad()
    dense.zero_grad()
    output, expected = layer(x), dense(twin)
    torch.testing.assert_close(output, expected)
    output.backward(delta)
    expected.backward(delta)
    torch.testing.assert_close(x.grad, twin.grad)
    torch.testing.assert_close(layer.bias.grad, dense.bias.grad)
    gradient: Any = dense.weight.grad
    torch.testing.assert_close(layer.dense_gradient() * mask, gradient * mask)


def test_products_and_dense_forms(pair: tuple[Any, nn.Linear], mask: Tensor) -> None:
    layer, dense = pair
    compare(layer, dense, mask)
    assert torch.equal(layer.dense_weight(), dense.weight)
    assert torch.equal(layer.to_dense().weight, dense.weight)
    assert torch.equal(layer.col[: layer.topology.nnz], mask.nonzero()[:, 1].int())
    assert torch.equal(layer.topology.mask(), mask)
    layer.write_weight(2 * dense.weight)
    assert torch.equal(layer.dense_weight(), 2 * dense.weight)
    with torch.no_grad():
        layer.weight.mul_(3)
    assert torch.equal(layer.weight.detach(), 6 * dense.weight)


def test_forward_mode_and_expanded_products(mask: Tensor) -> None:
    layer = sk.SparseLinear(310, 150, topology=Topology.from_mask(mask), dtype=torch.float64)
    x, weight = torch.randn(4, 310, dtype=torch.float64), layer.dense_weight().detach()
    values, tangent = layer.values.detach(), torch.randn_like(layer.values)
    moved = torch.func.jvp(lambda v: layer.topology.dense(v), (values,), (tangent,))[1]
    assert torch.equal(moved[mask], tangent)
    assert not moved[~mask].any()
    output = torch.func.jvp(lambda x: ops.sparse_linear(x, values, layer.index), (x,), (x,))[1]
    torch.testing.assert_close(output, x @ weight.t())
    torch.testing.assert_close(ops.expanded_linear(x, values, layer.index), x @ weight.t())


@pytest.mark.parametrize("name", ["sparse_linear", "expanded_linear"])
def test_references(name: str, mask: Tensor, form: frozenset[str]) -> None:
    topology = Topology.from_mask(mask, views=form)
    x, values, delta = (torch.randn(*size, dtype=torch.float64) for size in ((4, 310), (topology.nnz,), (4, 150)))
    weight, index = topology.dense(values), list(topology.index)
    assert torch.equal(weight[mask], values)
    torch.testing.assert_close(OPERATORS[name].reference(x, values, index, None, 150), x @ weight.t())
    back = OPERATORS[f"{name}_backward"].reference(delta, x, values, index, True, True, False)
    torch.testing.assert_close(back[0], delta @ weight)
    torch.testing.assert_close(back[1], (delta.t() @ x)[mask])


@pytest.mark.parametrize("views", [NARROW, TILES, PACKED], ids=["narrow", "tiles", "packed"])
@pytest.mark.parametrize("op", [ops.sparse_conv2d, ops.expanded_conv2d])
def test_convolutions_read_every_form(op: Any, views: frozenset[str], mask: Tensor) -> None:
    topology = Topology.from_mask(mask[:6, :36].reshape(6, 4, 3, 3), capacity=90, views=views)
    dense = torch.randn(6, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    values = topology.gather(dense.detach()).requires_grad_()
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64, requires_grad=True)
    output = op(x, values, topology.index, kernel_size=3)
    expected = nn.functional.conv2d(x, dense * topology.mask())
    torch.testing.assert_close(output, expected)
    delta = torch.randn_like(output)
    for got, want in zip(
        torch.autograd.grad(output, (x, values), delta), torch.autograd.grad(expected, (x, dense), delta), strict=True
    ):
        torch.testing.assert_close(got, want if got.dim() > 1 else topology.gather(want))


def test_copies_and_files(pair: tuple[Any, nn.Linear], mask: Tensor) -> None:
    layer, dense = pair
    state = layer.state_dict()
    assert torch.equal(state["row_ptr"].diff(), mask.sum(1))
    assert torch.equal(state["col"], mask.nonzero()[:, 1].int())
    assert torch.equal(state[layer.WEIGHT][mask] if layer.WEIGHT == "master" else state["values"], dense.weight[mask])
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    other = type(layer)(310, 150, sparsity=0.9, dtype=torch.float64)
    other.load_state_dict(state)
    bits = type(layer)(310, 150, sparsity=0.9, dtype=torch.float64)
    bits.set_kernel("dense", "")
    bits.load_state_dict(state)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)):
        assert not {t.data_ptr() for t in layer.index if t.numel()} & {t.data_ptr() for t in copied.index if t.numel()}
        compare(copied, dense, mask)
    for copied in (other, bits):
        compare(copied, dense, mask)
        assert copied.topology.same_pattern(layer.topology)
    assert layer.to("meta")(torch.empty(2, 310, device="meta", dtype=torch.float64)).shape == (2, 150)


def test_pickles_in_which_tiles_stood_beside_columns(pair: tuple[Any, nn.Linear], mask: Tensor) -> None:
    layer, dense = pair
    plain = layer.topology.with_views(frozenset())
    old = object.__new__(Topology)
    tiles = layer.topology.with_views(TILES).columns
    old.__dict__.update({**plain.__dict__, "views": TILES, "index": plain.index._replace(compact=tiles)})
    copied = copy.deepcopy(layer)
    copied._topology, copied._index = old, old.index
    copied = pickle.loads(pickle.dumps(copied))
    assert torch.equal(copied.topology.columns, tiles)
    compare(copied, dense, mask)


def test_compiles_to_one_graph(pair: tuple[Any, nn.Linear]) -> None:
    layer, dense = pair
    x = torch.randn(6, 310, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    output = compiled(x)
    torch.testing.assert_close(output, dense(x))
    output.sum().backward()
    assert layer.stored.grad is not None
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), dense(x))


def test_memory_is_counted(mask: Tensor, form: frozenset[str]) -> None:
    nnz = int(mask.sum())
    tight = sk.SparseLinear(310, 150, topology=Topology.from_mask(mask), bias=False)
    roomy = sk.SparseLinear(310, 150, topology=Topology.from_mask(mask, capacity=nnz + 40), bias=False)
    one, two = (sk.memory_report(layer).rows[0] for layer in (tight, roomy))
    assert one["indices"] == sum(t.nbytes for t in tight.index)
    assert one["slack"] == 0
    assert two["slack"] == 40 * (4 + 4 + {TILES: 3, NARROW: 5}[form])
    assert two["indices"] == pytest.approx(one["indices"], abs=8)  # parts are padded
    assert two["indices"] + two["slack"] == sum(t.nbytes for t in roomy.index) + 40 * 8


def trained(name: str) -> list[tuple[Tensor, Tensor]]:
    """Patterns and weights after a run of a method."""
    model, optimizer = prepare("linear", name, OPTIMIZERS["momentum"], "auto")
    for batch in batches("linear"):
        step(model, optimizer, batch)
    return [(site.active.mask(), site.module.dense_weight().detach()) for site in optimizer.sites]


@pytest.mark.parametrize("name", NAMES)
def test_methods_choose_the_same_weights(name: str, tables: Any) -> None:
    compact = trained(name)
    tables("dense")
    for (mask, weight), (expected, wanted) in zip(compact, trained(name), strict=True):
        assert torch.equal(mask, expected)
        torch.testing.assert_close(weight, wanted)

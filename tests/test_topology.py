"""Topology and SparseWeight: construction, conversion, change, and what they refuse."""

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sparsekern import SparseWeight, Topology, ops
from sparsekern.ops import extension
from sparsekern.ops.csr import check_pattern
from sparsekern.ops.tile_pattern import tile_side
from sparsekern.topology import CSC, NARROW, PACKED, TILES, nnz_at

FORMS = pytest.mark.parametrize("views", [CSC, NARROW, TILES, PACKED], ids=["csc", "narrow", "tiles", "packed"])

SHAPES = [(7, 70), (1, 5), (5, 1), (64, 64), (65, 129), (3, 2, 2, 2)]


def random_mask(shape: tuple[int, ...], density: float) -> torch.Tensor:
    mask = torch.rand(shape) < density
    mask[0] = False  # an empty row
    return mask


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("shape", [(900, 500), (40000, 3), (2, 90000)])
def test_large_patterns_are_transposed_in_parts(shape: tuple[int, int], n: int, threads: Callable[[int], None]) -> None:
    threads(n)
    mask = torch.rand(shape) < 0.6
    mask[: shape[0] // 3] = False
    mask[:, -1] = False
    topology = Topology.from_mask(mask, capacity=int(mask.sum()) + 7)
    nnz = topology.nnz
    _, col, t_ptr, t_row, t_pos, *_ = topology.index
    assert torch.equal(t_ptr.diff(), mask.sum(0, dtype=torch.int32))
    assert torch.equal(t_row[:nnz], mask.t().nonzero()[:, 1].int())
    assert torch.equal(t_pos[:nnz].long(), col[:nnz].argsort(stable=True))
    assert not t_row[nnz:].any()
    assert not t_pos[nnz:].any()


@FORMS
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_mask_round_trip_and_views(shape: tuple[int, ...], density: float, views: frozenset[str]) -> None:
    mask = random_mask(shape, density)
    nnz = int(mask.sum())
    topology = Topology.from_mask(mask, capacity=nnz + 3, views=views)
    assert torch.equal(topology.mask(), mask)
    assert (topology.nnz, topology.capacity, topology.shape) == (nnz, nnz + 3, shape)
    assert topology.sparsity == pytest.approx(1 - nnz / mask.numel())
    assert torch.equal(topology.coordinates(), mask.flatten().nonzero().flatten())
    check_pattern(topology.row_ptr, topology.col[:nnz], topology.cols)
    flat = mask.reshape(shape[0], -1)
    assert torch.equal(topology.col, torch.cat([flat.nonzero()[:, 1], torch.zeros(3)]).int())
    _, col, t_ptr, t_row, t_pos, segments, compact, bits = topology.index
    assert segments.numel() == 0
    if views == TILES:
        side = tile_side(nnz / max(1, mask.numel()))
        assert torch.equal(compact, ops.tile_pattern(topology.row_ptr, topology.col, topology.cols, side))
    if views == NARROW:
        assert torch.equal(compact, ops.narrow_pattern(topology.row_ptr, topology.col, topology.cols))
    if views == PACKED:
        assert torch.equal(bits, ops.bit_index(topology.row_ptr, topology.col, topology.cols))
    assert (compact.numel() > 0, bits.numel() > 0) == (views in (NARROW, TILES), views == PACKED)
    if views != CSC:
        assert (col.shape, t_ptr.shape) == ((nnz + 3, 0), (flat.shape[1] + 1, 0))
        return
    assert torch.equal(t_ptr.diff(), flat.sum(0))
    assert torch.equal(t_row[:nnz], flat.t().nonzero()[:, 1])
    assert torch.equal(topology.col[t_pos[:nnz].long()].long(), flat.t().nonzero()[:, 0])


@pytest.mark.parametrize("shape", SHAPES)
def test_from_coordinates_in_any_order(shape: tuple[int, ...]) -> None:
    mask = random_mask(shape, 0.4)
    coordinates = mask.flatten().nonzero().flatten()
    shuffled = coordinates[torch.randperm(coordinates.numel())]
    topology = Topology.from_coordinates(shuffled, mask.shape)
    assert torch.equal(topology.mask(), mask)
    assert torch.equal(topology.coordinates(), coordinates)
    assert topology.same_pattern(Topology.from_mask(mask, capacity=coordinates.numel() + 2))


def test_views_come_and_go() -> None:
    plain = Topology.random((70, 130), 500)
    assert plain.with_views(CSC) is plain
    tiled = plain.with_views(TILES)
    # header and starts, entries, columns, and the tables of the one tile: ten nonzeros in a row of 176 columns
    assert [t.numel() for t in tiled.index] == [71, 0, 0, 0, 0, 0, 4 * 6 + 1000 + 500 + 4 * 176, 0]
    # header and starts of columns; columns, rows, places and, of one strip, counts
    narrow = tiled.with_views(NARROW)
    assert [t.numel() for t in narrow.index] == [71, 0, 0, 0, 0, 0, 4 * 135 + 1000 + 1000 + 500 + 72, 0]
    packed = narrow.with_views(PACKED)
    assert [t.numel() for t in packed.index] == [71, 0, 0, 0, 0, 0, 0, 70 * 3]
    assert all(map(torch.equal, packed.with_views(TILES).index, tiled.index))
    for other in (narrow, tiled, packed):
        assert all(map(torch.equal, other.with_views(CSC).index, plain.index))
        assert other.to("cpu") is other
        for twin in (other.clone(), copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
            assert twin.same_pattern(plain)
            assert all(map(torch.equal, twin.index, other.index))
            assert twin.columns.data_ptr() != other.columns.data_ptr()
        assert other.to("meta").col.shape == (500,)
        with pytest.raises(ValueError, match="alone, got"):
            other.with_views(other.views | CSC)

    bits = plain.with_views(frozenset({"bitmask"}))
    assert [t.numel() for t in bits.index] == [71, 500, 131, 0, 0, 70 * 4, 0, 70 * 3]
    assert torch.equal(bits.index.segment_ptr, ops.segment_index(plain.row_ptr, plain.col, 130))

    counts = plain.with_views(frozenset({"csc_ptr"}))
    assert [t.numel() for t in counts.index] == [71, 500, 131, 0, 0, 0, 0, 0]
    assert torch.equal(counts.index.t_ptr, plain.index.t_ptr)

    bare = plain.with_views(frozenset())
    assert [t.numel() for t in bare.index] == [71, 500, 131, 0, 0, 0, 0, 0]
    assert bare.rewire(torch.ones(500, dtype=torch.bool), torch.empty(0, dtype=torch.int64))[0].index.t_row.numel() == 0
    with pytest.raises(ValueError, match="CSC index"):
        ops.sparse_linear(torch.ones(2, 130), torch.ones(500), bare.index)


@pytest.mark.parametrize("views", [TILES, TILES | CSC], ids=["tiles", "both"])
def test_pickles_in_which_tiles_stood_beside_columns(views: frozenset[str]) -> None:
    plain = Topology.random((70, 130), 500, capacity=510)
    old = object.__new__(Topology)
    tiles = ops.tile_pattern(plain.row_ptr, plain.col, 130, 176)
    state = {**plain.__dict__, "views": views, "index": plain.index._replace(compact=tiles), "built": ()}
    old.__setstate__(state)
    assert old.same_pattern(plain)
    new = plain.with_views(views) if views == TILES else plain
    assert old.views == new.views
    assert all(map(torch.equal, old.index, new.index))


def test_views_are_found_by_their_old_names() -> None:
    plain = Topology.random((7, 9), 20)
    for old, new in {"columns": "csc", "counts": "csc_ptr", "bits": "bitmask"}.items():
        assert plain.with_views(frozenset({old})).views == {new}
    assert Topology(plain.shape, plain.row_ptr, plain.col, frozenset({"bits"})).views == {"bitmask"}
    old = object.__new__(Topology)
    old.__setstate__({**plain.__dict__, "views": frozenset({"columns"})})
    assert old.views == plain.views


def index_bytes(sparsity: float, view: str, size: int = 1024) -> float:
    """Bytes of index a nonzero of a square layer."""
    topology = Topology.random((size, size), nnz_at(sparsity, size * size), views=frozenset({view}))
    return sum(t.numel() * t.element_size() for t in topology.index) / topology.nnz


def test_bytes_of_an_index() -> None:
    """The figures of docs/compact-index.md and docs/performance.md."""
    for sparsity, tiles in ((0.5, 3.1), (0.8, 3.3), (0.9, 3.5), (0.95, 3.6), (0.98, 4.3)):
        assert index_bytes(sparsity, "tiles") == pytest.approx(tiles, abs=0.06)
    for sparsity, tiles in ((0.8, 3.3), (0.9, 3.4), (0.98, 4.0)):
        assert index_bytes(sparsity, "tiles", 4096) == pytest.approx(tiles, abs=0.06)
    for sparsity, size, narrow in ((0.9, 1024, 5.1), (0.95, 1024, 5.3), (0.98, 1024, 5.7), (0.98, 4096, 5.4)):
        assert index_bytes(sparsity, "narrow", size) == pytest.approx(narrow, abs=0.06)
    for sparsity, bits in ((0.0, 0.13), (0.5, 0.26), (0.9, 1.29)):
        assert index_bytes(sparsity, "packed") == pytest.approx(bits, abs=0.01)


@FORMS
def test_values_go_to_dense_and_back(views: frozenset[str]) -> None:
    mask = random_mask((6, 5, 3, 3), 0.4)
    weight = torch.randn(mask.shape, dtype=torch.double)
    sparse = SparseWeight.from_dense(weight, mask)
    torch.testing.assert_close(sparse.to_dense(), weight * mask)
    topology = sparse.topology.with_views(views).with_capacity(sparse.topology.nnz + 5)
    values = topology.gather(weight)
    assert values.shape == (topology.capacity,)
    assert torch.equal(topology.to_csr(values), weight[mask])
    assert torch.equal(values[topology.nnz :], torch.zeros(5, dtype=torch.double))
    assert torch.equal(topology.from_csr(weight[mask]), values)
    torch.testing.assert_close(topology.dense(values), weight * mask)


@FORMS
def test_dense_and_its_entries_are_differentiable(views: frozenset[str]) -> None:
    topology = Topology.from_mask(random_mask((4, 6), 0.5), capacity=20, views=views)
    weight = torch.randn(4, 6, dtype=torch.double, requires_grad=True)
    values = topology.gather(weight.detach()).requires_grad_()
    for forward in (False, True):
        assert torch.autograd.gradcheck(topology.dense, (values,), check_forward_ad=forward)
    assert torch.autograd.gradcheck(lambda dense: ops.active_values(dense, topology.index), (weight,))


@FORMS
@pytest.mark.parametrize("capacity", [None, 60])
def test_rewire_maps_every_slot(capacity: int | None, views: frozenset[str]) -> None:
    mask = random_mask((8, 9), 0.5)
    topology = Topology.from_mask(mask, views=views)
    weight = torch.randn(8, 9)
    values = topology.gather(weight)
    keep = torch.rand(topology.nnz) < 0.6
    absent = (~mask).flatten().nonzero().flatten()
    grow = absent[torch.randperm(absent.numel())[: int((~keep).sum())]]
    after, index_map = topology.rewire(keep, grow, capacity=capacity)
    expected = mask.clone().flatten()
    expected[topology.coordinates()[~keep]] = False
    kept_weights = weight * expected.reshape(8, 9)
    expected[grow] = True
    assert torch.equal(after.mask().flatten(), expected)
    assert after.capacity == index_map.numel() == (capacity or topology.capacity)
    moved = torch.where(index_map >= 0, values[index_map.clamp(min=0).long()], 0.0)
    torch.testing.assert_close(after.dense(moved), kept_weights)
    assert int((index_map[: after.nnz] < 0).sum()) == grow.numel()
    assert bool((index_map[after.nnz :] == -1).all())
    assert after.views == views
    again = Topology.from_mask(after.mask(), capacity=after.capacity, views=views)
    assert all(torch.equal(a, b) for a, b in zip(after.index, again.index, strict=True))


def test_random_is_exact_and_follows_the_generator() -> None:
    for nnz in (0, 1, 300, 1199, 1200):
        first = Topology.random((30, 40), nnz, generator=torch.Generator().manual_seed(1))
        second = Topology.random((30, 40), nnz, generator=torch.Generator().manual_seed(1))
        assert first.nnz == nnz
        assert first.same_pattern(second)
    assert not Topology.random((30, 40), 300).same_pattern(Topology.random((30, 40), 300))


def test_random_follows_the_global_generator() -> None:
    torch.manual_seed(5)
    first, second = Topology.random((30, 30), 90), Topology.random((30, 30), 90)
    torch.manual_seed(5)
    assert first.same_pattern(Topology.random((30, 30), 90))
    assert not first.same_pattern(second)


@pytest.mark.parametrize("nnz", [3, 9])
def test_random_is_uniform(nnz: int) -> None:
    """Every entry, and every pair of entries, is as likely as any other."""
    draws, size = 3000, 12
    generator = torch.Generator().manual_seed(0)
    together = torch.zeros(size, size)
    for _ in range(draws):
        present = Topology.random((3, 4), nnz, generator=generator).mask().flatten().float()
        together += present.outer(present)
    single, pair = nnz / size, nnz * (nnz - 1) / (size * (size - 1))
    for counts, p in ((together.diag(), single), (together[~torch.eye(size, dtype=torch.bool)], pair)):
        deviation = (counts - draws * p).abs().max() / (draws * p * (1 - p)) ** 0.5
        assert deviation < 4.5


def test_same_pattern_ignores_slack() -> None:
    topology = Topology.random((6, 7), 13)
    for views in (CSC, NARROW, TILES, PACKED):
        assert topology.same_pattern(topology.with_capacity(20).with_views(views))
        assert topology.with_views(views).same_pattern(topology.with_capacity(20).with_views(TILES))
    assert not topology.same_pattern(Topology.from_mask(torch.zeros(6, 7, dtype=torch.bool)))


def test_kept_is_exact() -> None:
    assert [nnz_at(s, 100) for s in (0.0, 0.9, 0.95, 0.999)] == [100, 10, 5, 1]
    assert nnz_at(0.1 + 0.2, 10) == 7
    assert nnz_at(0.98, 266200) == 5324


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Topology.from_mask(torch.zeros(3, 4)), "bool tensor"),
        (lambda: Topology.from_mask(torch.zeros(3, dtype=torch.bool)), "two or more dimensions"),
        (lambda: Topology.from_mask(torch.ones(3, 4, dtype=torch.bool), capacity=11), "capacity"),
        (lambda: Topology.from_coordinates(torch.tensor([1, 1]), (3, 4)), "distinct"),
        (lambda: Topology.from_coordinates(torch.tensor([12]), (3, 4)), r"12"),
        (lambda: Topology.from_coordinates(torch.tensor([-1]), (3, 4)), r"-1|\[0, 12\)"),
        (lambda: Topology.from_coordinates(torch.tensor([1.0]), (3, 4)), "int64"),
        (lambda: Topology.from_coordinates(torch.tensor([1]), (3,)), "two or more dimensions"),
        (lambda: Topology.from_coordinates(torch.tensor([1]), (2, 2**31)), r"below 2\*\*31"),
        (lambda: Topology.random((3, 4), 13), "between 0 and 12"),
        (lambda: Topology.random((3, 4), 5).rewire(torch.ones(4) > 0, torch.tensor([0])), r"\[5\]"),
        (lambda: SparseWeight(torch.zeros(4), Topology.random((3, 4), 5)), r"shape \(5,\)"),
        (lambda: SparseWeight.from_dense(torch.zeros(3, 4), torch.zeros(4, 3, dtype=torch.bool)), r"shape \(3, 4\)"),
        (lambda: Topology.random((3, 4), 5).gather(torch.zeros(4, 3)), r"shape \(3, 4\)"),
        (lambda: Topology.random((3, 4), 5).from_csr(torch.zeros(4)), "expected 5 values"),
    ],
)  # fmt: skip
def test_refuses(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_grow_must_be_absent() -> None:
    topology = Topology.from_mask(torch.ones(2, 2, dtype=torch.bool), capacity=6)
    everything = torch.ones(4, dtype=torch.bool)
    for grow in ([0], [4], [-1]):
        with pytest.raises(ValueError, match=r"active|\[0, 4\)"):
            topology.rewire(everything, torch.tensor(grow))
    with pytest.raises(ValueError, match="distinct"):
        topology.rewire(~everything, torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="capacity"):
        topology.rewire(everything, torch.tensor([0]), capacity=3)


@pytest.mark.parametrize("workload", ["random", "ascending", "shuffled"])
def test_memory_of_a_huge_pattern(workload: str) -> None:
    """65,536 x 65,536 at 99.9 %: at most four times the bytes of the finished index, that index included; five without
    compiled kernels, as PyTorch's sort is not in place. The dense mask would take 4 GiB."""
    root = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, str(root / "tests" / "support" / "memory_probe.py"), workload],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert result.returncode == 0, result.stderr
    index = 4 * (3 * 4294967 + 2 * (65536 + 1))
    assert int(result.stdout) < (4 if extension else 5) * index

"""Malformed indices and arguments raise, whoever passes them: no kernel follows a pointer that leads astray."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsekern import SparseConv2d, SparseLinear, Topology, ops
from sparsekern.ops.csr import check_pattern
from sparsekern.ops.library import OPERATORS

ROWS, COLS, BIG = 3, 5, 10**8
POINTERS, COLUMNS = [0, 2, 3, 5], [1, 4, 0, 2, 3]
at = partial(torch.tensor, dtype=torch.int32)

# What is no pattern: row pointers, columns, and what the error says.
WRONG: dict[str, tuple[Any, Any, str]] = {
    "pointers that fall": (at([0, 4, 3, 5]), at(COLUMNS), "row_ptr must ascend from 0"),
    "pointers that start late": (at([1, 2, 3, 5]), at(COLUMNS), "row_ptr must ascend from 0"),
    "pointers below 0": (at([-4, 2, 3, 5]), at(COLUMNS), "row_ptr must ascend from 0"),
    "pointers that end below 0": (at([0, 0, 0, -BIG]), at(COLUMNS), "row_ptr must ascend from 0"),
    "pointers past the end": (at([0, 2, 3, BIG]), at(COLUMNS), f"col must have at least {BIG} elements"),
    "pointers past the end between": (at([0, BIG, BIG, 5]), at(COLUMNS), "row_ptr must ascend from 0"),
    "no pointers": (at([]), at(COLUMNS), "row_ptr must have at least 1 element"),
    "pointers of 64 bits": (at(POINTERS).long(), at(COLUMNS), "row_ptr must be a 1-D torch.int32 tensor"),
    "pointers of two dimensions": (at([POINTERS]), at(COLUMNS), "row_ptr must be a 1-D"),
    "column too large": (at(POINTERS), at([1, 4, 0, 2, 5]), r"col must lie in \[0, 5\)"),
    "column far too large": (at(POINTERS), at([1, 4, BIG, 2, 3]), r"col must lie in \[0, 5\)"),
    "column below 0": (at(POINTERS), at([-BIG, 4, 0, 2, 3]), r"col must lie in \[0, 5\)"),
    "columns that fall": (at(POINTERS), at([4, 1, 0, 2, 3]), "col must ascend within each row"),
    "a column twice": (at(POINTERS), at([4, 4, 0, 2, 3]), "col must ascend within each row"),
    "columns of floats": (
        at(POINTERS),
        torch.tensor([1.0, 4.0, 0.0, 2.0, 3.0]),
        "col must be a 1-D torch.int32",
    ),
    "too few columns": (at(POINTERS), at([1, 4, 0]), "col must have at least 5 elements"),
}
HARMLESS = {"columns that fall", "a column twice", "pointers of two dimensions"}  # to what only follows them

Call = Callable[[Tensor, Tensor], Any]


def _kept(row_ptr: Tensor, col: Tensor) -> Any:
    return ops.rewire(row_ptr, col, torch.ones(5, dtype=torch.bool), torch.tensor([0]), 9, COLS)


def _scored(row_ptr: Tensor, col: Tensor, op: Callable = ops.score_step) -> None:
    score, buffer, gradient, weight = (torch.zeros(ROWS, COLS) for _ in range(4))
    op(score, buffer, gradient, weight, row_ptr, col, lr=0.1, momentum=0.9)


PATTERN_CALLS: dict[str, Call] = {
    "Topology": lambda row_ptr, col: Topology((ROWS, COLS), row_ptr, col),
    "rewire": _kept,
    "transpose_index": lambda row_ptr, col: ops.transpose_index(row_ptr, col, COLS),
    "bit_index": lambda row_ptr, col: ops.bit_index(row_ptr, col, COLS),
    "coordinates": lambda row_ptr, col: ops.coordinates(row_ptr, col, COLS),
    "positions": lambda row_ptr, col: ops.positions(row_ptr, col, torch.tensor([0, 14]), COLS),
    "guided_sample": lambda row_ptr, col: ops.guided_sample(torch.ones(ROWS), torch.ones(COLS), row_ptr, col, 2, 0),
    "guided_sample, all": lambda row_ptr, col: ops.guided_sample(
        torch.ones(ROWS), torch.ones(COLS), row_ptr, col, 10, 0
    ),
    "guided_sample, grouped": lambda row_ptr, col: ops.guided_sample(
        torch.ones(ROWS), torch.ones(1, COLS), row_ptr, col, 2, 0
    ),
}
REFERENCES: dict[str, Call] = {
    "rewire": lambda row_ptr, col: OPERATORS["rewire"].reference(
        row_ptr, col, torch.ones(5, dtype=torch.bool), torch.tensor([0]), 9, COLS
    ),
    "transpose_index": lambda row_ptr, col: OPERATORS["transpose_index"].reference(row_ptr, col, COLS),
    "bit_index": lambda row_ptr, col: OPERATORS["bit_index"].reference(row_ptr, col, COLS),
    "positions": lambda row_ptr, col: OPERATORS["positions"].reference(row_ptr, col, torch.tensor([0, 14]), COLS),
    "guided_sample": lambda row_ptr, col: OPERATORS["guided_sample"].reference(
        torch.ones(ROWS), torch.ones(COLS), row_ptr, col, 2, 0
    ),
    "expand": lambda row_ptr, col: OPERATORS["expand"].reference(torch.ones(5), row_ptr, col, 0, ROWS, COLS),
    "collect": lambda row_ptr, col: OPERATORS["collect"].reference(
        torch.ones(ROWS, COLS), row_ptr, col, 0, ROWS, torch.ones(5)
    ),
    "score_step": lambda row_ptr, col: _scored(row_ptr, col, OPERATORS["score_step"].reference),
}
# What takes its index from a Topology sees to the bounds only.
FOLLOWING_CALLS: dict[str, Call] = {
    "score_step": _scored,
    "dense_weight": lambda row_ptr, col: ops.dense_weight(torch.ones(5), row_ptr, col, COLS),
    "active_values": lambda row_ptr, col: ops.active_values(torch.ones(ROWS, COLS), _index(row_ptr=row_ptr, col=col)),
    "expanded_linear": lambda row_ptr, col: ops.expanded_linear(
        torch.ones(2, COLS), torch.ones(col.shape), _index(row_ptr=row_ptr, col=col)
    ),
    "sparse_conv2d": lambda row_ptr, col: ops.sparse_conv2d(
        torch.ones(2, COLS, 4, 4), torch.ones(col.shape), _index(row_ptr=row_ptr, col=col), kernel_size=1
    ),
}


def _index(**wrong: Tensor) -> list[Tensor]:
    index = list(Topology((ROWS, COLS), at(POINTERS), at(COLUMNS)).index)
    for place, name in enumerate(("row_ptr", "col", "t_ptr", "t_row", "t_pos")):
        index[place] = wrong.get(name, index[place])
    return index


def test_right_ones_pass() -> None:
    for call in (*PATTERN_CALLS.values(), *REFERENCES.values(), *FOLLOWING_CALLS.values()):
        call(at(POINTERS), at(COLUMNS))
        call(at(POINTERS), at([*COLUMNS, BIG])[:5])


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", PATTERN_CALLS)
def test_what_is_no_pattern(name: str, wrong: str) -> None:
    row_ptr, col, message = WRONG[wrong]
    if "float" in wrong or "64" in wrong:
        message = "1-D torch.int32"
    with pytest.raises(ValueError, match=message):
        PATTERN_CALLS[name](row_ptr, col)


@pytest.mark.parametrize("wrong", sorted({*WRONG} - {"pointers of 64 bits"}))
@pytest.mark.parametrize("name", REFERENCES)
def test_what_is_no_pattern_without_kernels(name: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=r"row_ptr|col"):
        REFERENCES[name](*WRONG[wrong][:2])


@pytest.mark.parametrize("wrong", sorted({*WRONG} - HARMLESS))
@pytest.mark.parametrize("name", FOLLOWING_CALLS)
def test_what_leads_out_of_bounds(name: str, wrong: str) -> None:
    row_ptr, col, message = WRONG[wrong]
    if "float" in wrong or "64" in wrong:
        message = "int32"
    elif wrong == "no pointers":
        message = r"at least 1 element|must have -1 rows"
    with pytest.raises((ValueError, RuntimeError), match=message):
        FOLLOWING_CALLS[name](row_ptr, col)


@pytest.mark.parametrize("place", ["row_ptr", "t_ptr"])
def test_pointers_of_sparse_products(place: str) -> None:
    """Columns are those of a Topology, which are looked at where that is made."""
    x, values = torch.ones(2, COLS), torch.ones(5)
    for pointers in ([0, 4, 3, 5], [1, 2, 3, 5], [0, 2, 3, BIG], [0, 0, 0, -1]):
        wrong = at(pointers if place == "row_ptr" else [*pointers[:3], 3, 3, pointers[3]])
        with pytest.raises(ValueError, match=r"row_ptr|t_ptr|nonzeros|elements"):
            ops.sparse_linear(x, values, _index(**{place: wrong}))


def test_tiles_of_what_is_no_pattern() -> None:
    for row_ptr, col, message in WRONG.values():
        with pytest.raises(ValueError, match=message):
            ops.tile_pattern(row_ptr, col, COLS, 64)
        with pytest.raises(ValueError, match=message):
            ops.narrow_pattern(row_ptr, col, COLS)
        with pytest.raises(ValueError, match=message):
            ops.segment_index(row_ptr, col, COLS)


@pytest.mark.parametrize("side", [0, -16, 20, 256])
def test_sides_of_tiles(side: int) -> None:
    with pytest.raises(ValueError, match="side must be a multiple of 16 up to 240"):
        ops.tile_pattern(at(POINTERS), at(COLUMNS), COLS, side)


COMPACT = pytest.mark.parametrize("views", [frozenset({"tiles"}), frozenset({"narrow"})], ids=["tiles", "narrow"])
WRONG_INDEX = "compact must be the index of a 3 x 5 pattern of 5 nonzeros, made by tile_pattern or narrow_pattern"


def _spoilt(compact: Tensor) -> list[Tensor]:
    """No index, or not a whole one."""
    return [compact[:-1], compact[:3], compact.int(), compact.repeat(2)[::2]]


@COMPACT
@pytest.mark.skipif(ops.extension is None, reason="the reference does not read a compact index")
def test_compact_index_of_another_pattern(views: frozenset[str]) -> None:
    x, values = torch.ones(2, COLS), torch.ones(5)
    index = Topology((ROWS, COLS), at(POINTERS), at(COLUMNS), views).index
    other = Topology((ROWS, COLS + 1), at(POINTERS), at(COLUMNS), views).index
    for compact in (*_spoilt(index.compact), other.compact):
        with pytest.raises(ValueError, match=WRONG_INDEX):
            ops.sparse_linear(x, values, index._replace(compact=compact))


def test_columns_of_one_input_in_a_damaged_narrow_index() -> None:
    index = Topology((ROWS, COLS), at(POINTERS), at(COLUMNS), frozenset({"narrow"})).index
    index.compact[4 * (4 + COLS + 1)] = COLS  # the first column
    with pytest.raises(ValueError, match=r"col(umns of a compact index)? must lie in \[0, 5\)"):
        ops.sparse_linear(torch.ones(1, COLS), torch.ones(5), index)


@pytest.mark.parametrize("shape", [(2**16 + 1, 3), (3, 2**16 + 1)])
def test_extent_of_a_narrow_index(shape: tuple[int, int]) -> None:
    topology = Topology.from_coordinates(torch.tensor([0, shape[0] * shape[1] - 1]), shape)
    for op in (ops.narrow_pattern, OPERATORS["narrow_pattern"].reference):
        with pytest.raises(ValueError, match="up to 65536 rows and columns, got"):
            op(topology.row_ptr, topology.col, topology.cols)


@pytest.mark.skipif(ops.extension is None, reason="the reference does not read them")
@pytest.mark.parametrize("wrong", [-1, 10**8])
@pytest.mark.parametrize("place", [0, 2, COLS])
def test_damaged_starts_of_columns_in_a_narrow_index(wrong: int, place: int) -> None:
    index = Topology((ROWS, COLS), at(POINTERS), at(COLUMNS), frozenset({"narrow"})).index
    compact = index.compact.clone()
    compact.view(torch.int32)[4 + place] = wrong
    with pytest.raises(ValueError, match="columns of a narrow index must start one after another"):
        ops.sparse_linear(torch.ones(2, COLS), torch.ones(5), index._replace(compact=compact))


@pytest.mark.parametrize("cols", [-100, -400_000_000])
def test_negative_extent_of_a_compact_index(cols: int) -> None:
    compact = torch.tensor([1, cols, 0, 4, *[0] * 50], dtype=torch.int32).view(torch.uint8)
    for decode in DECODERS:
        with pytest.raises(ValueError, match="compact must be the index of a 1 x -"):
            decode(at([0, 4]), compact, cols, 4)


@COMPACT
def test_a_compact_index_at_an_odd_address(views: frozenset[str]) -> None:
    compact = Topology((ROWS, COLS), at(POINTERS), at(COLUMNS), views).columns
    odd = torch.cat([compact[:1], compact])[1:]
    for decode in DECODERS:
        with pytest.raises(ValueError, match=WRONG_INDEX):
            decode(at(POINTERS), odd, COLS, 5)


DECODERS = [ops.compact_columns, OPERATORS["compact_columns"].reference]


@COMPACT
@pytest.mark.parametrize("decode", DECODERS, ids=["kernel", "reference"])
def test_columns_of_no_compact_index(decode: Callable[..., Tensor], views: frozenset[str]) -> None:
    topology = Topology((ROWS, COLS), at(POINTERS), at(COLUMNS), views)
    row_ptr, compact = topology.row_ptr, topology.columns
    assert decode(row_ptr, compact, COLS, 7).tolist() == [*COLUMNS, 0, 0]
    for wrong in (*_spoilt(compact), compact[:0]):
        with pytest.raises(ValueError, match=WRONG_INDEX):
            decode(row_ptr, wrong, COLS, 5)
    with pytest.raises(ValueError, match="compact must be the index of a 3 x 6 pattern"):
        decode(row_ptr, compact, COLS + 1, 5)
    with pytest.raises(ValueError, match="capacity must be at least 5, got 4"):
        decode(row_ptr, compact, COLS, 4)


@COMPACT
def test_columns_of_a_damaged_compact_index(views: frozenset[str]) -> None:
    """They are refused or those of some pattern, whichever byte is wrong."""
    topology = Topology((ROWS, COLS), at(POINTERS), at(COLUMNS), views)
    row_ptr, compact = topology.row_ptr, topology.columns
    refused = 0
    for place in range(len(compact)):
        for byte in (0, 1, 5, 63, 240, 255):
            damaged = compact.clone()
            damaged[place] = byte
            for decode in DECODERS:
                try:
                    check_pattern(row_ptr, decode(row_ptr, damaged, COLS, 5), COLS)
                except ValueError:
                    refused += 1
    assert refused > 2 * 5 * 4 * 4  # of the header alone


BITS = torch.tensor([[0b10010], [0b00001], [0b01100]])
KEEP, NONE = torch.tensor([[0b10111]]), torch.empty(1, 0, dtype=torch.int64)


@pytest.mark.parametrize("side", ["compiled", "reference"])
@pytest.mark.parametrize(
    "arguments",
    [
        (at([0, 1, 3, 5]), BITS, KEEP, COLS),  # other counts
        (at([0, 2, 3]), BITS, KEEP, COLS),
        (at(POINTERS), BITS, KEEP, 65),
        (at(POINTERS), BITS, torch.tensor([[1, 1]]), COLS),
        (at(POINTERS), BITS, KEEP[0], COLS),
    ],
)
def test_bitmasks_that_do_not_fit(side: str, arguments: tuple[Any, ...]) -> None:
    drop = ops.drop_bits if side == "compiled" else OPERATORS["drop_bits"].reference
    with pytest.raises(ValueError, match="bits"):
        drop(*arguments)


@pytest.mark.parametrize("side", ["compiled", "reference"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 6},  # more than there are
        {"size": 70},
        {"used": 9},
        {"keep": NONE},
        {"keep": torch.tensor([[0b100111]])},  # an entry beyond the size
        {"old": torch.tensor([[0b1011]]), "used": 4},  # fewer than stay
        {"old": torch.tensor([[0b11111]]), "used": 5},  # more than stay
        {"target": torch.zeros(3)},  # too short
        {"target": torch.zeros(5).double()},
        {"fill": torch.tensor(0.0).double()},
    ],
    ids=str,
)
def test_entries_that_cannot_move(side: str, wrong: dict[str, Any]) -> None:
    given = {"source": torch.arange(5.0), "target": torch.zeros(5), "keep": KEEP, "size": 5, "old": NONE, "used": 0}
    given |= {"fill": torch.tensor(0.0), **wrong}
    move = ops.move_entries if side == "compiled" else OPERATORS["move_entries"].reference
    with pytest.raises(ValueError, match=r"bits|size|used|old|dtype|entries"):
        move(**given)


@pytest.mark.parametrize("coordinate", [-1, ROWS * COLS])
def test_positions_outside(coordinate: int) -> None:
    for find in (ops.positions, OPERATORS["positions"].reference):
        for columns in (at(COLUMNS), BITS):
            with pytest.raises(ValueError, match=r"coordinates must lie in \[0, 15\)"):
                find(at(POINTERS), columns, torch.tensor([coordinate]), COLS)


@pytest.mark.parametrize("cols", [-1, -64, 2**31, 0])
def test_extents(cols: int) -> None:
    for op in (ops.transpose_index, ops.segment_index, ops.bit_index):
        with pytest.raises(ValueError, match=r"\[0, 0\)|at least 0 and below"):
            op(at(POINTERS), at(COLUMNS), cols)


@pytest.mark.parametrize("shape", [(5,), (-1, 5), (3, -5)])
def test_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two or more dimensions, none below 0"):
        Topology(shape, at(POINTERS), at(COLUMNS))


def test_topologies_of_other_shapes_and_views() -> None:
    for shape in ((2, 5), (4, 5), (3, 4)):
        with pytest.raises(ValueError, match=r"row_ptr must have|\[0, 4\)"):
            Topology(shape, at(POINTERS), at(COLUMNS))
    with pytest.raises(ValueError, match=r"views must be some of .* got rows"):
        Topology((ROWS, COLS), at(POINTERS), at(COLUMNS), frozenset({"rows"}))
    with pytest.raises(ValueError, match="must be contiguous"):
        Topology((ROWS, COLS), at(POINTERS), at(COLUMNS).repeat_interleave(2)[::2])


def test_counts_of_nonzeros() -> None:
    for nnz in (4, 6, BIG, -1):
        with pytest.raises(ValueError, match="nnz must be the last of row_ptr"):
            ops.coordinates(at(POINTERS), at(COLUMNS), COLS, nnz)


@pytest.mark.parametrize("n", [-1, 11, 2**40])
def test_numbers_of_coordinates(n: int) -> None:
    with pytest.raises(ValueError, match="between 0 and"):
        ops.guided_sample(torch.ones(ROWS), torch.ones(COLS), at(POINTERS), at(COLUMNS), n, 0)
    with pytest.raises(ValueError, match="between 0 and"):
        ops.random_subset(n, 10, 0)


def test_masks_of_other_bytes() -> None:
    """A view of bytes as truth values may hold others than 0 and 1."""
    mask = torch.full((4, 70), 255, dtype=torch.uint8).view(torch.bool)
    with pytest.raises(ValueError, match="bytes 0 and 1"):
        Topology.from_mask(mask)
    keep = torch.tensor([255, 0, 2, 1, 0], dtype=torch.uint8).view(torch.bool)
    row_ptr, col, _ = ops.rewire(at(POINTERS), at(COLUMNS), keep, torch.empty(0, dtype=torch.int64), 5, COLS)
    assert (row_ptr.tolist(), col.tolist()) == ([0, 1, 2, 3], [1, 0, 2, 0, 0])


def test_states_of_layers() -> None:
    """A file with one wrong number of its index is refused, and the layer stays what it is."""
    for layer in (SparseLinear(COLS, ROWS, sparsity=0.5), SparseConv2d(COLS, ROWS, 1, sparsity=0.5)):
        x = torch.randn(2, COLS, *[1] * (layer.weight.dim() - 2))
        before, state = layer(x), layer.state_dict()
        for name in ("row_ptr", "col"):
            for place in range(state[name].numel()):
                for number in (-1, -(2**31), 2**31 - 1):
                    wrong = state[name].clone()
                    wrong[place] = number
                    with pytest.raises(RuntimeError, match=r"row_ptr|col|rows that end"):
                        layer.load_state_dict({**state, name: wrong})
        assert torch.equal(layer(x), before)

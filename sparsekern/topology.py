"""The sparsity pattern of a weight matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import floor, prod
from typing import Any

import torch
from torch import Tensor

from . import ops
from .ops.columns import columns_of
from .ops.compress import coordinates_of
from .ops.csr import check_pattern, check_vectors
from .ops.expand import gather_entries
from .ops.index import SEGMENT, Index
from .ops.tile_pattern import tile_side
from .ops.views import BITMASK, CSC, FORMS, NARROW, PACKED, TILES, VIEWS, index_of, renamed


@dataclass(frozen=True, eq=False, init=False)
class Topology:
    """The pattern of a weight matrix, which entries exist: a frozen CSR index with a fixed capacity.

    The matrix is the weight viewed `[rows, cols]`, a convolution as `[out, in * kh * kw]`. Position `k` of a value
    vector `[capacity]` belongs to column `col[k]` of the row `r` with `row_ptr[r] <= k < row_ptr[r + 1]`; columns are
    sorted within a row, positions from `nnz` on are slack. Build one with `from_mask`, `from_coordinates` or `random`;
    never through a dense matrix unless you have one.

    Args:
        shape: shape of the weight, two or more dimensions.
        row_ptr: int32 `[rows + 1]`.
        col: int32 `[capacity]`.
        views: what `index` holds beside these two, as the kernels need it: "csc", the transposed index, or "csc_ptr",
            only its pointers; "bitmask", the segment pointers of the rows and the pattern as a bitmask. Or one of these
            alone in the place of `col`, which is then made anew whenever it is asked for: "narrow", the pattern in
            16-bit columns and rows, "tiles", the same in tiles for the L1-blocked kernels, or "packed", the bitmask.

    Raises:
        ValueError: this is no CSR pattern of this shape. It is checked once, here, on a GPU too; products follow the
            index of a topology without a check.

    Examples:
        >>> topology = Topology.from_mask(torch.tensor([[True, False], [True, True]]))
        >>> topology.nnz, topology.sparsity, topology.col.tolist()
        (3, 0.25, [0, 0, 1])
    """

    shape: tuple[int, ...]
    row_ptr: Tensor
    columns: Tensor  # `col` or, in its place, a compact index or the bitmask (`ops.bit_index`)
    capacity: int
    views: frozenset[str]
    built: tuple[Tensor, ...] = field(repr=False)

    def __init__(self, shape: tuple[int, ...], row_ptr: Tensor, col: Tensor, views: frozenset[str] = CSC) -> None:
        views = renamed(views)
        self.__dict__.update(
            shape=shape, row_ptr=row_ptr, columns=col, capacity=col.numel(), views=views - FORMS, built=()
        )
        if len(self.shape) < 2 or min(self.shape) < 0:
            raise ValueError(f"shape must have two or more dimensions, none below 0, got {tuple(self.shape)}")
        if unknown := views - VIEWS:
            raise ValueError(f"views must be some of {', '.join(sorted(VIEWS))}, got {', '.join(sorted(unknown))}")
        check_vectors(row_ptr, col)
        if self.row_ptr.numel() != self.rows + 1:
            raise ValueError(f"row_ptr must have {self.rows + 1} elements, got {self.row_ptr.numel()}")
        if not (row_ptr.is_contiguous() and col.is_contiguous()):
            raise ValueError("row_ptr and col must be contiguous")
        if self.device.type != "meta":
            check_pattern(row_ptr, col, self.cols)
            self.__dict__.update(self.with_views(views).__dict__)

    # ---- construction

    @classmethod
    def trusted(
        cls,
        shape: tuple[int, ...],
        row_ptr: Tensor,
        col: Tensor,
        views: frozenset[str] = CSC,
        built: tuple = (),
        nnz: int | None = None,
    ) -> Topology:
        """Makes a topology of a pattern that needs no check: an operator or a topology has made it. `built`: what
        `index` holds beside `row_ptr` and `col`, if it is there already."""
        topology, views = object.__new__(cls), renamed(views)
        held = {"columns": col, "capacity": col.numel(), "views": views - FORMS, "built": built}
        topology.__dict__.update(shape=shape, row_ptr=row_ptr, **held)
        return topology._known(nnz).with_views(views)

    @classmethod
    def from_mask(
        cls, mask: Tensor, *, capacity: int | None = None, nnz: int | None = None, views: frozenset[str] = CSC
    ) -> Topology:
        """Makes the pattern of the True entries of a mask.

        Args:
            mask: bool tensor of the weight's shape, two or more dimensions.
            capacity: room for so many nonzeros; by default for those that there are.
            nnz: how many entries are True, if that is known: the host then need not wait for the device.
            views: see the class.

        Raises:
            ValueError: `mask` is not such a tensor, or `capacity` is too small.

        Examples:
            >>> Topology.from_mask(torch.eye(3, dtype=torch.bool), capacity=5).col.tolist()  # two are slack
            [0, 1, 2, 0, 0]
        """
        if mask.dtype != torch.bool or mask.dim() < 2:
            raise ValueError(
                f"mask must be a bool tensor of two or more dimensions, got {mask.dtype} {tuple(mask.shape)}"
            )
        row_ptr, col = ops.compress_mask(mask.reshape(len(mask), prod(mask.shape[1:])), capacity)
        return cls.trusted(tuple(mask.shape), row_ptr, col, views, nnz=nnz)

    @classmethod
    def from_bits(cls, bits: Tensor, shape: tuple[int, ...], *, capacity: int, nnz: int) -> Topology:
        """Makes the pattern of a bitmask, int64 `[rows, segments]` (`ops.bit_index`), which it holds as it is."""
        topology = cls.trusted(shape, ops.bit_pointers(bits), bits, frozenset(), nnz=nnz)
        return topology._with(capacity=capacity, views=PACKED)

    @classmethod
    def from_coordinates(
        cls,
        coordinates: Tensor,
        shape: torch.Size | tuple[int, ...],
        *,
        capacity: int | None = None,
        views: frozenset[str] = CSC,
    ) -> Topology:
        """Makes the pattern of some entries.

        Args:
            coordinates: int64 `[nnz]`, distinct flat indices `r * cols + c` in any order.
            shape: of the weight, two or more dimensions.
            capacity, views: as of `from_mask`.

        Raises:
            ValueError: a coordinate is outside the weight or occurs twice, or `capacity` is too small.

        Examples:
            >>> Topology.from_coordinates(torch.tensor([5, 0]), (2, 3)).mask().tolist()
            [[True, False, False], [False, False, True]]
        """
        shape = tuple(shape)
        rows, cols = shape[0], prod(shape[1:])
        if len(shape) < 2:
            raise ValueError(f"shape must have two or more dimensions, got {shape}")
        row_ptr, col = ops.compress(coordinates, rows, cols, capacity)
        return cls.trusted(shape, row_ptr, col, views)

    @classmethod
    def random(
        cls,
        shape: torch.Size | tuple[int, ...],
        nnz: int,
        *,
        generator: torch.Generator | None = None,
        capacity: int | None = None,
        views: frozenset[str] = CSC,
    ) -> Topology:
        """Makes a pattern G(n, M): exactly `nnz` distinct entries, every such set equally likely.

        Args:
            shape: of the weight.
            generator: of the CPU; by default PyTorch's own.
            capacity, views: as of `from_mask`.

        Raises:
            ValueError: the weight has fewer than `nnz` entries.

        Examples:
            >>> Topology.random((256, 512), 13_107).sparsity
            0.9000015258789062
        """
        size = prod(shape)
        if not 0 <= nnz <= size:
            raise ValueError(f"nnz must be between 0 and {size}, the weights of shape {tuple(shape)}, got {nnz}")
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device="cpu"))
        if nnz == size:
            return cls.from_mask(torch.ones(shape, dtype=torch.bool), capacity=capacity, nnz=nnz, views=views)
        return cls.from_coordinates(ops.random_subset(nnz, size, seed), shape, capacity=capacity, views=views)

    # ---- facts

    @property
    def rows(self) -> int:
        """The first dimension of the weight."""
        return self.shape[0]

    @property
    def cols(self) -> int:
        """The product of the other dimensions."""
        return prod(self.shape[1:])

    @property
    def col(self) -> Tensor:
        """The column of each position, int32 `[capacity]`, made anew where another form is held in its place."""
        return columns_of(self.row_ptr, self.columns, self.cols, self.capacity)

    @cached_property
    def nnz(self) -> int:
        """The number of nonzeros. The host waits for the device the first time."""
        return int(self.row_ptr[-1])

    @property
    def sparsity(self) -> float:
        """Fraction of absent weights."""
        return 1.0 - self.nnz / max(1, prod(self.shape))

    @cached_property
    def index(self) -> Index:
        """The tensors that the operators take, by name; views that are not wanted are empty."""
        if self.built:
            return Index(self.row_ptr, self.columns, *self.built)
        return index_of(self.row_ptr, self.columns, self.cols, self.capacity, self.views)

    @property
    def device(self) -> torch.device:
        """The device of the index."""
        return self.row_ptr.device

    # ---- conversion

    def coordinates(self) -> Tensor:
        """Returns the flat index of every position in use, int64 `[nnz]`, ascending."""
        return coordinates_of(self.row_ptr, self.col, self.cols, self.nnz)

    def positions(self, coordinates: Tensor) -> Tensor:
        """Returns the position of each flat index, int32; -1 where nothing is. See `ops.positions`."""
        columns = self.columns if self.views == PACKED else self.col
        return ops.positions(self.row_ptr, columns, coordinates, self.cols)

    @property
    def bits(self) -> Tensor:
        """The pattern as a bitmask, int64 `[rows, segments]` (`ops.bit_index`), made anew unless that is what is
        held."""
        held = self.views & (PACKED | BITMASK)
        return self.index.bits if held else ops.bit_index(self.row_ptr, self.col, self.cols)

    def flat_bits(self) -> Tensor:
        """Returns which entries exist, a bitmask of one row of `rows * cols`."""
        whole = self.cols % SEGMENT == 0
        return self.bits.view(1, -1) if whole else ops.mask_bits(self.mask().view(1, -1))

    def mask(self) -> Tensor:
        """Returns a new bool tensor of the weight's shape."""
        if self.views == PACKED:
            return ops.bit_mask(self.columns, self.cols).reshape(self.shape)
        mask = torch.zeros(prod(self.shape), dtype=torch.bool, device=self.device)
        mask[self.coordinates()] = True
        return mask.reshape(self.shape)

    def to_csr(self, values: Tensor) -> Tensor:
        """Returns the row-major values `[nnz]` of a value vector `[capacity]`: a view of it."""
        return values[: self.nnz]

    def from_csr(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Returns the value vector `[capacity]` of row-major values `[nnz]`, with `fill` in the slack.

        Raises:
            ValueError: `values` are not `[nnz]`.
        """
        if values.shape != (self.nnz,):
            raise ValueError(f"expected {self.nnz} values, got shape {tuple(values.shape)}")
        padded = values.new_full((self.capacity,), fill)
        padded[: self.nnz] = values
        return padded

    def dense(self, values: Tensor) -> Tensor:
        """Returns the weight as a dense tensor of `shape`, with zeros where nothing is.

        Args:
            values: `[capacity]`.

        Examples:
            >>> topology = Topology.from_mask(torch.tensor([[True, False], [True, True]]))
            >>> topology.dense(torch.tensor([1.0, 2.0, 3.0])).tolist()
            [[1.0, 0.0], [2.0, 3.0]]
        """
        return ops.dense_weight(values, self.row_ptr, self.columns, self.cols).reshape(self.shape)

    def gather(self, dense: Tensor) -> Tensor:
        """Returns the entries of a dense tensor at this pattern, `[capacity]`, with zeros in the slack.

        Raises:
            ValueError: `dense` does not have the weight's shape.
        """
        if dense.shape != self.shape:
            raise ValueError(f"expected a tensor of shape {self.shape}, got {tuple(dense.shape)}")
        if not dense.is_floating_point():
            return self.from_csr(dense.reshape(-1)[self.coordinates()])
        return gather_entries(dense.reshape(self.rows, self.cols), self.row_ptr, self.columns, self.capacity)

    def to(self, device: torch.device | str) -> Topology:
        """Returns the same pattern on `device`; itself if it is there."""
        return self if torch.device(device) == self.device else self._copy(device)

    def clone(self) -> Topology:
        """Returns the same pattern in tensors of its own."""
        return self._copy(self.device)

    def _copy(self, device: torch.device | str) -> Topology:
        copied: dict[str, Any] = {
            "row_ptr": self.row_ptr.to(device, copy=True),
            "columns": self.columns.to(device, copy=True),
        }
        if not self.views & FORMS:
            copied["built"] = tuple(tensor.to(device, copy=True) for tensor in self.index[2:])
        return self._with(**copied)

    # ---- change

    def rewire(
        self, keep: Tensor, grow: Tensor, *, capacity: int | None = None, kept: int | None = None
    ) -> tuple[Topology, Tensor]:
        """Makes the pattern without the positions whose `keep` (bool `[nnz]`) is False and with the entries `grow`.

        Args:
            grow: flat indices, int64, distinct and not active after the drop.
            capacity: of the new pattern; that of this one by default.
            kept: how many of `keep` are True; if that is known, it is not asked of the device.

        Returns:
            The new pattern and its index map, int32 `[capacity]`: the old position of each new one, -1 for what
            has grown and for slack.

        Raises:
            ValueError: `keep` is not such a tensor, an entry of `grow` is active already, or `capacity` is too small.

        Examples:
            >>> topology = Topology.from_mask(torch.tensor([[True, False], [True, True]]))
            >>> new, index_map = topology.rewire(torch.tensor([True, True, False]), torch.tensor([1]))
            >>> new.mask().tolist(), index_map.tolist()
            ([[True, True], [True, False]], [0, -1, 1])
        """
        capacity = self.capacity if capacity is None else capacity
        if keep.dtype != torch.bool or keep.shape != (self.nnz,):
            raise ValueError(f"keep must be a bool tensor [{self.nnz}], got {keep.dtype} {tuple(keep.shape)}")
        if self.device.type != "cpu" or not bool((grow[1:] > grow[:-1]).all()):
            grow = grow.sort().values
        row_ptr, col, index_map = ops.rewire(self.row_ptr, self.col, keep, grow, capacity, self.cols)
        nnz = None if kept is None else kept + grow.numel()
        return self.trusted(self.shape, row_ptr, col, self.views, nnz=nnz), index_map

    def drop(self, keep: Tensor, kept: int, capacity: int) -> Topology:
        """Makes the pattern without some positions, as `rewire` does; of a bitmask with hardly any memory.

        Args:
            keep: which positions stay, a bitmask of one row of `nnz` columns, of which `kept` are set.
        """
        if self.views != PACKED:
            grow = torch.empty(0, dtype=torch.int64, device=self.device)
            return self.rewire(ops.bit_mask(keep, self.nnz)[0], grow, capacity=capacity, kept=kept)[0]
        row_ptr, columns = ops.drop_bits(self.row_ptr, self.columns, keep, self.cols)
        return self._with(row_ptr=row_ptr, columns=columns, capacity=capacity)._known(kept)

    def with_capacity(self, capacity: int) -> Topology:
        """Returns the same pattern with room for `capacity` nonzeros."""
        if self.views == PACKED and capacity >= self.nnz:
            return self._with(capacity=capacity)
        empty = torch.empty(0, dtype=torch.int64, device=self.device)
        keep = torch.ones(self.nnz, dtype=torch.bool, device=self.device)
        return self.rewire(keep, empty, capacity=capacity, kept=self.nnz)[0]

    def with_views(self, views: frozenset[str]) -> Topology:
        """Returns the same pattern with the given views of it."""
        views = renamed(views)
        if views == self.views:
            return self
        if views & FORMS and len(views) > 1:
            raise ValueError(f"views must be narrow, tiles or packed alone, got {', '.join(sorted(views))}")
        columns = self.col
        if views == PACKED:
            columns = ops.bit_index(self.row_ptr, columns, self.cols)
        elif views == NARROW:
            columns = ops.narrow_pattern(self.row_ptr, columns, self.cols)
        elif views == TILES:
            columns = ops.tile_pattern(self.row_ptr, columns, self.cols, tile_side(1 - self.sparsity))
        return self._with(columns=columns, views=views, built=())

    def _with(self, **changed: Any) -> Topology:
        """Returns the same pattern with other tensors."""
        topology = object.__new__(type(self))
        held = {name: value for name, value in self.__dict__.items() if name != "index"}  # made of the old ones
        topology.__dict__.update(held, **changed)
        return topology

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "col" in state:  # of version 0.1
            state["columns"] = state.pop("col")
            state["capacity"] = state["columns"].numel()
        self.__dict__.update(state, views=renamed(state["views"]))
        if self.views & FORMS and self.columns.dtype == torch.int32:  # when tiles stood beside `col`
            views = self.views
            self.__dict__.pop("index", None)
            self.__dict__.update(views=views - FORMS, built=())
            self.__dict__.update((self.with_views(TILES) if views == TILES else self).__dict__)

    def _known(self, nnz: int | None) -> Topology:
        """Remembers the number of nonzeros, if it is known, so that the device is not asked for it; returns itself."""
        if nnz is not None:
            self.__dict__["nnz"] = nnz
        return self

    def same_pattern(self, other: Topology) -> bool:
        """Returns whether both have the same entries of the same shape, whatever their capacities and views."""
        return (
            self.shape == other.shape
            and self.nnz == other.nnz
            and torch.equal(self.row_ptr, other.row_ptr)
            and self._same_columns(other)
        )

    def _same_columns(self, other: Topology) -> bool:
        if self.views == other.views == PACKED:
            return torch.equal(self.columns, other.columns)
        return torch.equal(self.col[: self.nnz], other.col[: self.nnz])


def __getattr__(name: str) -> Any:
    if name == "SparseWeight":  # which was defined here before version 0.2, as pickles know
        from .sparse_weight import SparseWeight

        return SparseWeight
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def nnz_at(sparsity: float, size: int) -> int:
    """Returns how many of `size` weights remain: `size - floor(sparsity * size)`.

    Raises:
        ValueError: `sparsity` is not in [0, 1).
    """
    if sparsity is None or not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}")
    return size - floor(sparsity * size + 1e-9)


kept = nnz_at  # as it was called in version 0.1
COLUMNS = CSC  # as it was called in version 0.1

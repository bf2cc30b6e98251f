"""What a pattern holds beside its row pointers, and the index that the operators take, made of it."""

from torch import Tensor

from .bit_index import bit_index
from .index import Index
from .narrow_pattern import is_smaller
from .segment_index import segment_index
from .transpose_index import transpose_index

CSC = frozenset({"csc"})
BITMASK = frozenset({"bitmask"})
PACKED = frozenset({"packed"})
TILES = frozenset({"tiles"})
NARROW = frozenset({"narrow"})
COMPACT = TILES | NARROW
FORMS = PACKED | COMPACT  # of what is held in the place of `col`
VIEWS = CSC | BITMASK | FORMS | {"csc_ptr"}
OLD_NAMES = {"columns": "csc", "counts": "csc_ptr", "bits": "bitmask"}  # of version 0.1


def renamed(views: frozenset[str]) -> frozenset[str]:
    """Returns views by the names that they have now."""
    return views if views <= VIEWS else frozenset(OLD_NAMES.get(view, view) for view in views)


def row_views(rows: int, cols: int, nnz: int, held: frozenset[str] | None = None) -> frozenset[str]:
    """Returns what a walk over rows on the CPU reads of a linear layer's pattern. A narrow index that is `held` stays
    until it is the larger one: code was compiled for it."""
    smaller = is_smaller(rows, cols, nnz, 1) if held == NARROW else is_smaller(rows, cols, nnz)
    return NARROW if smaller else CSC


def index_of(row_ptr: Tensor, columns: Tensor, cols: int, capacity: int, views: frozenset[str]) -> Index:
    """Returns the index of a pattern; tensors of views that are not wanted are empty. Arguments are the attributes of
    `Topology`."""
    none = row_ptr.new_empty(0)
    if views & FORMS:
        col, t_ptr = row_ptr.new_empty(capacity, 0), row_ptr.new_empty(cols + 1, 0)
        compact = columns if views & COMPACT else none.byte()
        return Index(row_ptr, col, t_ptr, none, none, none, compact, columns if views == PACKED else none.long())
    t_ptr, t_row, t_pos = row_ptr.new_zeros(cols + 1), none, none
    if views & {"csc", "csc_ptr"}:
        t_ptr, *csc = transpose_index(row_ptr, columns, cols)
        t_row, t_pos = csc if "csc" in views else (none, none)
    segments = segment_index(row_ptr, columns, cols) if "bitmask" in views else none
    bits = bit_index(row_ptr, columns, cols) if "bitmask" in views else none.long()
    return Index(row_ptr, columns, t_ptr, t_row, t_pos, segments, none.byte(), bits)

"""Between a value vector and the dense matrix: `expand` and `expand_bits` write nonzeros into dense rows, `collect` and
`collect_bits` read them back. `dense_weight` and `active_values` are the two directions for a whole matrix,
differentiable."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..private_torch import in_forward_mode, transformed
from .backend import derivatives
from .bit_index import bit_mask
from .columns import columns_of
from .csr import check_host, rows_of
from .index import Index
from .library import define
from .transforms import refuse_transforms

_ops = torch.ops.sparsekern
PANEL_BYTES = 64 << 20  # the largest panel of a weight that is expanded
THREAD_PANEL_BYTES = 4 << 20  # about that of a thread where a library multiplies a linear layer's (kPanelBytes)
THREAD_BLOCK_BYTES = 400 << 10  # about that of a thread where our own kernel does (kMostRows, kRowBytes)


def active_values(weight: Tensor, index: Sequence[Tensor]) -> Tensor:
    """Gathers the entries of a dense weight at a pattern, in one pass over the nonzeros.

    Differentiable: the gradient is dense, zero off the pattern.

    Args:
        weight: `[out, ...]`, viewed `[out, cols]`.
        index: `Topology.index`.

    Returns:
        `[capacity]`, zero in the slack.

    Raises:
        ValueError: the extent of the weight is not that of the pattern.
    """
    index = Index.of(index)
    rows, cols = index.rows, index.cols
    if weight.dim() < 2 or weight.shape[0] != rows or weight.numel() != rows * cols:
        raise ValueError(f"weight must have {rows} rows of {cols} entries, got shape {tuple(weight.shape)}")
    matrix = weight if weight.dim() == 2 else weight.reshape(rows, cols)
    if (compiled := derivatives(weight)) is not None:
        return compiled.active_values(matrix, index.row_ptr, index.columns, index.capacity)
    if not in_forward_mode() and not (torch.is_grad_enabled() and weight.requires_grad):
        return gather_entries(matrix, index.row_ptr, index.columns, index.capacity)
    refuse_transforms()
    return _ActiveValues.apply(matrix, index.row_ptr, index.columns, index.col)  # type: ignore[return-value]


def dense_weight(values: Tensor, row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Makes the matrix `[rows, cols]` of the values `[capacity]` of a pattern, zeros in place. Differentiable in
    `values`. `col` is int32 `[capacity]`, or a compact index or the bitmask of the pattern."""
    if transformed():  # of which PyTorch's own operators know the derivatives
        col = columns_of(row_ptr, col, cols, values.shape[0])
        positions = torch.arange(col.shape[0], dtype=row_ptr.dtype, device=row_ptr.device)
        rows = torch.searchsorted(row_ptr[1:], positions, right=True)  # slack lies behind the last one
        dense = values.new_zeros(row_ptr.shape[0] * cols).index_add(0, rows * cols + col, values)
        return dense.reshape(row_ptr.shape[0], cols)[:-1]
    if (compiled := derivatives(values)) is not None:
        return compiled.dense_weight(values, row_ptr, col, cols)
    return _Dense.apply(values, row_ptr, col, cols)  # type: ignore[return-value]


def gather_entries(weight: Tensor, row_ptr: Tensor, columns: Tensor, capacity: int) -> Tensor:
    """Returns the entries of a matrix at a pattern, `[capacity]`, zero in the slack; `columns` are int32 `[capacity]`,
    a compact index or the bitmask."""
    values = weight.new_zeros(capacity)
    collect = _ops.collect_bits.default if columns.dim() == 2 else _ops.collect.default
    collect(weight, row_ptr, columns, 0, weight.shape[0], values)
    return values


class _ActiveValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, row_ptr: Tensor, columns: Tensor, slots: Tensor) -> Tensor:
        # `slots` is as long as the result: a number taken from a shape could not be traced.
        ctx.save_for_backward(row_ptr, columns)
        ctx.shape = weight.shape
        return gather_entries(weight, row_ptr, columns, slots.shape[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        row_ptr, columns = ctx.saved_tensors
        return _Dense.apply(grad_outputs[0], row_ptr, columns, ctx.shape[1]), None, None, None


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, row_ptr: Tensor, columns: Tensor, cols: int) -> Tensor:
        ctx.save_for_backward(row_ptr, columns)
        ctx.capacity = values.shape[0]
        expand = _ops.expand_bits.default if columns.dim() == 2 else _ops.expand.default
        return expand(values.contiguous(), row_ptr, columns, 0, row_ptr.shape[0] - 1, cols)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        gradient = grad_outputs[0].contiguous()
        return _ActiveValues.apply(gradient, *ctx.saved_tensors, gradient.new_empty(ctx.capacity, 0)), None, None, None


# ---- panels: dense rows of a weight that is expanded piece by piece


def row_panels(rows: int, cols: int, element_size: int) -> list[tuple[int, int]]:
    """Returns row ranges whose dense form stays within `PANEL_BYTES`."""
    step = max(1, PANEL_BYTES // max(1, cols * element_size))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def group_panels(rows: int, cols: int, element_size: int, groups: int) -> list[tuple[int, int, slice]]:
    """Returns row ranges of a grouped convolution within `PANEL_BYTES`, and the groups that they belong to."""
    if rows * cols * element_size <= PANEL_BYTES:
        return [(0, rows, slice(0, groups))]
    height, step = rows // groups, max(1, PANEL_BYTES // max(1, cols * element_size))
    return [
        (start, min(start + step, (g + 1) * height), slice(g, g + 1))
        for g in range(groups)
        for start in range(g * height, (g + 1) * height, step)
    ]


def panel(values: Tensor, index: Sequence[Tensor], start: int, stop: int, cols: int) -> Tensor:
    """Returns rows `start:stop` of the matrix, dense `[stop-start, cols]`, from its bitmask if there is one. Where no
    entry is absent they are a view of the values."""
    index = Index.of(index)
    if index.capacity == index.rows * cols and values.device.type == "cpu" and int(index.row_ptr[-1]) == index.capacity:
        return values.view(index.rows, cols)[start:stop]
    if index.bits.numel():
        pointers = index.segment_ptr if index.segment_ptr.numel() else index.row_ptr
        return _ops.expand_bits(values, pointers, index.bits, start, stop, cols)
    return _ops.expand(values, index.row_ptr, index.columns, start, stop, cols)


def collect_panel(dense: Tensor, index: Sequence[Tensor], start: int, stop: int, out: Tensor) -> None:
    """Writes the active entries of rows `start:stop` of a matrix to their positions in `out`, by the bitmask where
    it is in the place of columns."""
    index = Index.of(index)
    collect = _ops.collect_bits if index.columns.dim() == 2 else _ops.collect
    collect(dense, index.row_ptr, index.columns, start, stop, out)


# ---- references


def expand_reference(values: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, cols: int) -> Tensor:
    """Returns rows `start:stop` of the matrix, dense `[stop-start, cols]`; `col` is int32 `[capacity]` or compact."""
    col = columns_of(row_ptr, col, cols, values.shape[0])
    check_host(row_ptr, col, cols)
    dense = values.new_zeros(stop - start, cols)
    first, last = int(row_ptr[start]), int(row_ptr[stop])
    dense[rows_of(row_ptr[start : stop + 1]), col[first:last].long()] = values[first:last]
    return dense


def expand_bits_reference(values: Tensor, pointers: Tensor, bits: Tensor, start: int, stop: int, cols: int) -> Tensor:
    """Does what `expand` does, of a pattern as a bitmask; `pointers` is the index's `row_ptr` or `segment_ptr`."""
    dense = values.new_zeros(stop - start, cols)
    if start == stop:
        return dense
    rows = (
        pointers[start : stop + 1]
        if pointers.dim() == 1
        else torch.cat([pointers[start:stop, 0], pointers[stop - 1, -1:]])
    )
    dense[_mask_of(bits[start:stop], cols, rows)] = values[int(rows[0]) : int(rows[-1])]
    return dense


def _mask_of(bits: Tensor, cols: int, row_ptr: Tensor) -> Tensor:
    """Returns the bool matrix of a bitmask whose rows have as many bits as `row_ptr` says, which a GPU is not asked."""
    mask = bit_mask(bits, cols)
    if bits.device.type == "cpu" and not torch.equal(mask.sum(1), row_ptr.diff()):
        raise ValueError("each row of bits must have as many set bits as row_ptr gives it nonzeros")
    return mask


def collect_bits_reference(dense: Tensor, row_ptr: Tensor, bits: Tensor, start: int, stop: int, out: Tensor) -> None:
    """Does what `collect` does, of a pattern as a bitmask; `dense` has the dtype of `out`."""
    if dense.dtype != out.dtype:
        raise ValueError(f"dense must have the dtype {out.dtype} of out, got {dense.dtype}")
    mask = _mask_of(bits[start:stop], dense.shape[1], row_ptr[start : stop + 1])
    out[int(row_ptr[start]) : int(row_ptr[stop])] = dense[mask]


def collect_reference(dense: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, out: Tensor) -> None:
    """Writes the active entries of `dense` (rows `start:stop` of a matrix) to their positions in `out`; `col` is int32
    `[capacity]` or a compact index."""
    col = columns_of(row_ptr, col, dense.shape[1], out.shape[0])
    check_host(row_ptr, col, dense.shape[1])
    first, last = int(row_ptr[start]), int(row_ptr[stop])
    out[first:last] = dense[rows_of(row_ptr[start : stop + 1]), col[first:last].long()].to(out.dtype)


def expand_fake(values: Tensor, pointers: Tensor, columns: Tensor, start: int, stop: int, cols: int) -> Tensor:
    return values.new_empty((stop - start, cols))


define(
    "expand(Tensor values, Tensor row_ptr, Tensor col, int start, int stop, SymInt cols) -> Tensor",
    reference=expand_reference,
    fake=expand_fake,
)
define(
    "expand_bits(Tensor values, Tensor pointers, Tensor bits, int start, int stop, SymInt cols) -> Tensor",
    reference=expand_bits_reference,
    fake=expand_fake,
)
define(
    "collect(Tensor dense, Tensor row_ptr, Tensor col, int start, int stop, Tensor(a!) out) -> ()",
    reference=collect_reference,
)
define(
    "collect_bits(Tensor dense, Tensor row_ptr, Tensor bits, int start, int stop, Tensor(a!) out) -> ()",
    reference=collect_bits_reference,
)

"""Between a value vector and the dense matrix: `expand` and `expand_bits` write nonzeros into dense rows, `collect`
reads them back. `dense_weight` and `active_values` are the two directions for a whole matrix, differentiable."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..private_torch import in_forward_mode
from .csr import check_host, rows_of
from .index import TILE, Index
from .library import define

_ops = torch.ops.sparsekern
PANEL_BYTES = 64 << 20  # the largest panel of a weight that is expanded


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
    matrix = weight.reshape(rows, cols)
    if not in_forward_mode() and not (torch.is_grad_enabled() and weight.requires_grad):
        return _gathered(matrix, index.row_ptr, index.col)
    return _ActiveValues.apply(matrix, index.row_ptr, index.col)  # type: ignore[return-value]


def dense_weight(values: Tensor, row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Makes the matrix `[rows, cols]` of the values `[capacity]` of a pattern, zeros in place. Differentiable in
    `values`."""
    if in_forward_mode():  # of which PyTorch's own operators know the derivatives
        positions = torch.arange(col.shape[0], dtype=row_ptr.dtype, device=row_ptr.device)
        rows = torch.searchsorted(row_ptr[1:], positions, right=True)  # slack lies behind the last one
        dense = values.new_zeros(row_ptr.shape[0] * cols).index_add(0, rows * cols + col, values)
        return dense.reshape(row_ptr.shape[0], cols)[:-1]
    return _Dense.apply(values, row_ptr, col, cols)  # type: ignore[return-value]


def _gathered(matrix: Tensor, row_ptr: Tensor, col: Tensor) -> Tensor:
    values = matrix.new_zeros(col.shape)
    _ops.collect.default(matrix, row_ptr, col, 0, matrix.shape[0], values)
    return values


class _ActiveValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, row_ptr: Tensor, col: Tensor) -> Tensor:
        ctx.save_for_backward(row_ptr, col)
        ctx.shape = weight.shape
        return _gathered(weight, row_ptr, col)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        row_ptr, col = ctx.saved_tensors
        return _Dense.apply(grad_outputs[0], row_ptr, col, ctx.shape[1]), None, None


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
        ctx.save_for_backward(row_ptr, col)
        return _ops.expand.default(values.contiguous(), row_ptr, col, 0, row_ptr.shape[0] - 1, cols)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        return _ActiveValues.apply(grad_outputs[0].contiguous(), *ctx.saved_tensors), None, None, None


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
    """Returns rows `start:stop` of the matrix, dense `[stop-start, cols]`, from its bitmask if there is one."""
    index = Index.of(index)
    if index.bits.numel():
        return _ops.expand_bits(values, index.tile_ptr, index.bits, start, stop, cols)
    return _ops.expand(values, index.row_ptr, index.col, start, stop, cols)


# ---- references


def expand_reference(values: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, cols: int) -> Tensor:
    """Returns rows `start:stop` of the matrix, dense `[stop-start, cols]`."""
    check_host(row_ptr, col, cols)
    dense = values.new_zeros(stop - start, cols)
    first, last = int(row_ptr[start]), int(row_ptr[stop])
    dense[rows_of(row_ptr[start : stop + 1]), col[first:last].long()] = values[first:last]
    return dense


def expand_bits_reference(values: Tensor, tile_ptr: Tensor, bits: Tensor, start: int, stop: int, cols: int) -> Tensor:
    """`expand` of a pattern as a bitmask."""
    lanes = torch.arange(TILE, device=bits.device)
    mask = ((bits[start:stop, :, None] >> lanes) & 1).bool()
    dense = values.new_zeros(mask.shape)
    dense[mask] = values[int(tile_ptr[start, 0]) : int(tile_ptr[stop - 1, -1])] if mask.numel() else values[:0]
    return dense.flatten(1)[:, :cols].contiguous()


def collect_reference(dense: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, out: Tensor) -> None:
    """Writes the active entries of `dense` (rows `start:stop` of a matrix) to their positions in `out`."""
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
    "expand_bits(Tensor values, Tensor tile_ptr, Tensor bits, int start, int stop, SymInt cols) -> Tensor",
    reference=expand_bits_reference,
    fake=expand_fake,
)
define(
    "collect(Tensor dense, Tensor row_ptr, Tensor col, int start, int stop, Tensor(a!) out) -> ()",
    reference=collect_reference,
)

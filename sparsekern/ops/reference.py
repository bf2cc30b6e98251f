"""Every operator in plain PyTorch: the fallback, the oracle and the documentation of the kernels.

Signatures and the layout of `index` are those of `schema`.
"""

from math import prod

import torch
from torch import Tensor

from .csr import check_host
from .reference_sampling import guided_sample, random_subset
from .schema import TILE, library
from .shapes import accumulate_dtype

PANEL_BYTES = 64 << 20


def _rows(row_ptr: Tensor, nnz: int | None = None) -> Tensor:
    """The row of every slot in use, int64 `[nnz]`; if that is given, the device is not asked for it."""
    counts = row_ptr.diff().long()
    return torch.repeat_interleave(torch.arange(counts.numel(), device=row_ptr.device), counts, output_size=nnz)


def coordinates(row_ptr: Tensor, col: Tensor, cols: int, nnz: int | None = None) -> Tensor:
    """Flat index of every slot in use, int64 `[nnz]`; if that is given, the device is not asked for it."""
    nnz = int(row_ptr[-1]) if nnz is None else nnz
    return _rows(row_ptr, nnz).mul_(cols).add_(col[:nnz])


def _flat(tensor: Tensor) -> Tensor:
    """`[*, features]` as `[batch, features]`, of which either may be 0."""
    return tensor.reshape(prod(tensor.shape[:-1]), tensor.shape[-1])


def expand(values: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, cols: int) -> Tensor:
    """Rows `start:stop` of the matrix, dense `[stop-start, cols]`."""
    check_host(row_ptr, col, cols)
    dense = values.new_zeros(stop - start, cols)
    first, last = int(row_ptr[start]), int(row_ptr[stop])
    dense[_rows(row_ptr[start : stop + 1]), col[first:last].long()] = values[first:last]
    return dense


def expand_bits(values: Tensor, tile_ptr: Tensor, bits: Tensor, start: int, stop: int, cols: int) -> Tensor:
    """`expand` of a pattern as a bit map."""
    lanes = torch.arange(TILE, device=bits.device)
    mask = ((bits[start:stop, :, None] >> lanes) & 1).bool()
    dense = values.new_zeros(mask.shape)
    dense[mask] = values[int(tile_ptr[start, 0]) : int(tile_ptr[stop - 1, -1])] if mask.numel() else values[:0]
    return dense.flatten(1)[:, :cols].contiguous()


def collect(dense: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, out: Tensor) -> None:
    """Writes the active entries of `dense` (rows `start:stop` of a matrix) into their slots of `out`."""
    check_host(row_ptr, col, dense.shape[1])
    first, last = int(row_ptr[start]), int(row_ptr[stop])
    out[first:last] = dense[_rows(row_ptr[start : stop + 1]), col[first:last].long()].to(out.dtype)


def sparse_linear(input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, out_features: int) -> Tensor:
    """`input @ W.T + bias`, sums kept in fp32 or wider."""
    wide = accumulate_dtype(input.dtype)
    weight = expand(values.to(wide), index[0], index[1], 0, out_features, input.shape[-1])
    return torch.nn.functional.linear(input.to(wide), weight, None if bias is None else bias.to(wide)).to(input.dtype)


def sparse_linear_backward(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `sparse_linear`; what is not needed is returned with no elements."""
    wide = accumulate_dtype(input.dtype)
    rows, cols = grad_output.shape[-1], input.shape[-1]
    delta, h = _flat(grad_output).to(wide), _flat(input).to(wide)
    grad_input, grad_values, grad_bias = input.new_empty(0), values.new_empty(0), values.new_empty(0)
    if need_input:
        grad_input = (delta @ expand(values.to(wide), index[0], index[1], 0, rows, cols)).to(input.dtype)
        grad_input = grad_input.reshape(input.shape)
    if need_values:
        grad_values = torch.zeros_like(values)
        collect(delta.t() @ h, index[0], index[1], 0, rows, grad_values)
    if need_bias:
        grad_bias = delta.sum(0).to(values.dtype)
    return grad_input, grad_values, grad_bias


def _panels(rows: int, cols: int, element_size: int) -> list[tuple[int, int]]:
    """Row ranges whose dense form stays within `PANEL_BYTES`."""
    step = max(1, PANEL_BYTES // max(1, cols * element_size))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def panel(values: Tensor, index: list[Tensor], start: int, stop: int, cols: int) -> Tensor:
    """Rows `start:stop` of the matrix, dense `[stop-start, cols]`, from its bit map if there is one."""
    row_ptr, col, tile_ptr, bits = index[0], index[1], index[5], index[7]
    if bits.numel():
        return torch.ops.sparsekern.expand_bits(values, tile_ptr, bits, start, stop, cols)
    return torch.ops.sparsekern.expand(values, row_ptr, col, start, stop, cols)


def expanded_linear(
    input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, out_features: int
) -> Tensor:
    """`sparse_linear` by dense products with row panels of the expanded matrix: for weights that are hardly sparse."""
    cols, flat = input.shape[-1], _flat(input)

    def rows(start: int, stop: int) -> Tensor:
        weight = panel(values, index, start, stop, cols)
        return torch.nn.functional.linear(flat, weight, None if bias is None else bias[start:stop])

    panels = _panels(out_features, cols, values.element_size())
    output = rows(*panels[0]) if len(panels) == 1 else input.new_empty(flat.shape[0], out_features)
    for start, stop in panels if len(panels) > 1 else []:
        output[:, start:stop] = rows(start, stop)
    return output.reshape(*input.shape[:-1], out_features)


def expanded_linear_backward(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `expanded_linear`, in the same row panels."""
    rows, cols = grad_output.shape[-1], input.shape[-1]
    delta, h = _flat(grad_output), _flat(input)
    grad_input = h.new_zeros(h.shape if need_input and not rows else 0)
    grad_values = torch.zeros_like(values) if need_values else values.new_empty(0)
    for start, stop in _panels(rows, cols, values.element_size()):
        if need_input:
            part, weight = delta[:, start:stop], panel(values, index, start, stop, cols)
            grad_input = part @ weight if start == 0 else grad_input.addmm_(part, weight)
        if need_values:
            dense = delta[:, start:stop].t() @ h
            torch.ops.sparsekern.collect(dense, index[0], index[1], start, stop, grad_values)
    grad_bias = delta.sum(0).to(values.dtype) if need_bias else values.new_empty(0)
    return grad_input.reshape(input.shape) if need_input else grad_input, grad_values, grad_bias


def sampled_gradient(grad_output: Tensor, input: Tensor, coordinates: Tensor) -> Tensor:
    """`sum_b grad_output[b, r] * input[b, c]` at flat coordinates `r * cols + c`, int64 `[n]`; fp32 or wider."""
    wide = accumulate_dtype(input.dtype)
    rows, cols = grad_output.shape[-1], input.shape[-1]
    delta, h = _flat(grad_output).to(wide), _flat(input).to(wide)
    if coordinates.numel() and not 0 <= int(coordinates.min()) <= int(coordinates.max()) < rows * cols:
        raise ValueError(f"coordinates must lie in [0, {rows * cols})")
    result = h.new_empty(coordinates.shape)
    step = max(1, PANEL_BYTES // max(1, 2 * h.shape[0] * h.element_size()))
    for start in range(0, coordinates.numel(), step):
        part = coordinates[start : start + step]
        row = torch.div(part, cols, rounding_mode="floor")
        result[start : start + step] = (delta[:, row] * h[:, part - row * cols]).sum(0)
    return result


def compress(coordinates: Tensor, rows: int, cols: int, capacity: int) -> tuple[Tensor, Tensor]:
    """`row_ptr [rows+1]` and `col [capacity]` of distinct flat coordinates (int64 `[nnz]`) in any order."""
    nnz = coordinates.numel()
    if not nnz <= capacity < 2**31 - 1:
        raise ValueError(f"capacity must be at least nnz = {nnz} and below 2**31 - 1, got {capacity}")
    if nnz and not 0 <= int(coordinates.min()) <= int(coordinates.max()) < rows * cols:
        raise ValueError(f"coordinates must lie in [0, {rows * cols})")
    if not bool((coordinates[1:] > coordinates[:-1]).all()):
        coordinates = coordinates.sort().values
        if not bool((coordinates[1:] > coordinates[:-1]).all()):
            raise ValueError("coordinates must be distinct")
    col = torch.zeros(capacity, dtype=torch.int32, device=coordinates.device)
    col[:nnz] = coordinates % max(1, cols)
    bounds = torch.arange(rows + 1, device=coordinates.device) * cols
    return torch.searchsorted(coordinates, bounds, out_int32=True), col


def compress_mask(mask: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """`row_ptr [rows+1]` and `col [capacity]` of a mask, bool `[rows, cols]`."""
    rows, cols = mask.shape
    return compress(mask.flatten().nonzero().flatten(), rows, cols, capacity)


def rewire(
    row_ptr: Tensor, col: Tensor, keep: Tensor, grow: Tensor, capacity: int, cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Drops the slots whose `keep` is False (bool `[nnz]`), adds the ascending coordinates `grow` (int64).

    Returns the new `row_ptr`, `col` `[capacity]` and the index map `[capacity]`: the old slot of each new slot, or -1
    for a grown one and for slack.
    """
    check_host(row_ptr, col, cols)
    rows, nnz = row_ptr.numel() - 1, int(row_ptr[-1])
    if keep.numel() != nnz:
        raise ValueError(f"keep must be a bool tensor [{nnz}], got {keep.numel()} elements")
    if grow.numel() and not 0 <= int(grow.min()) <= int(grow.max()) < rows * cols:
        raise ValueError(f"grow must lie in [0, {rows * cols})")
    if not bool((grow[1:] > grow[:-1]).all()):
        raise ValueError("grow must be ascending and distinct")
    old = (_rows(row_ptr) * cols + col[:nnz].long())[keep]
    coordinates, order = torch.cat([old, grow]).sort()
    if coordinates.numel() > capacity:
        raise ValueError(f"{coordinates.numel()} nonzeros do not fit the capacity {capacity}")
    if not bool((coordinates[1:] > coordinates[:-1]).all()):
        raise ValueError("grow must not hold active coordinates")
    source = torch.cat([keep.nonzero().flatten(), torch.full_like(grow, -1)])[order]
    new_row_ptr, new_col = compress(coordinates, rows, cols, capacity)
    index_map = torch.full((capacity,), -1, dtype=torch.int32, device=col.device)
    index_map[: source.numel()] = source.to(torch.int32)
    return new_row_ptr, new_col, index_map


def transpose_index(row_ptr: Tensor, col: Tensor, cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """The walk by columns: `t_ptr [cols+1]`, and per slot of that walk its row and its slot in `values`."""
    check_host(row_ptr, col, cols)
    nnz = int(row_ptr[-1])
    t_ptr = torch.zeros(cols + 1, dtype=torch.int32, device=col.device)
    t_ptr[1:] = torch.bincount(col[:nnz], minlength=cols).cumsum(0)
    t_row, t_pos = torch.zeros_like(col), torch.zeros_like(col)
    t_pos[:nnz] = torch.argsort(col[:nnz], stable=True)
    t_row[:nnz] = torch.searchsorted(row_ptr[1:], t_pos[:nnz], right=True, out_int32=True)
    return t_ptr, t_row, t_pos


def tile_index(ptr: Tensor, index: Tensor, extent: int) -> Tensor:
    """Where, in each row, the segment of every `TILE` consecutive columns starts: `[rows, tiles + 1]`."""
    check_host(ptr, index, extent, "ptr", "index")
    rows, nnz = ptr.numel() - 1, int(ptr[-1])
    tiles = (extent + TILE - 1) // TILE
    segment = _rows(ptr) * tiles + torch.div(index[:nnz].long(), TILE, rounding_mode="floor")
    counts = torch.bincount(segment, minlength=rows * tiles).reshape(rows, tiles)
    starts = torch.cat([counts.new_zeros(rows, 1), counts.cumsum(1)], dim=1)
    return (starts + ptr[:-1, None]).to(torch.int32)


def bit_index(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """Which columns of every segment of `TILE` exist: int64 `[rows, tiles]`, the lowest bit first."""
    check_host(row_ptr, col, cols)
    rows, tiles = row_ptr.numel() - 1, (cols + TILE - 1) // TILE
    mask = torch.zeros(rows, tiles * TILE, dtype=torch.bool, device=col.device)
    mask[_rows(row_ptr), col[: int(row_ptr[-1])].long()] = True
    powers = torch.ones(TILE, dtype=torch.int64, device=col.device) << torch.arange(TILE, device=col.device)
    return (mask.view(rows, tiles, TILE) * powers).sum(2)


def _sortable(scores: list[Tensor], absolute: bool) -> Tensor:
    flat = torch.cat([s.flatten() for s in scores])
    flat = flat.abs() if absolute else flat
    if bool(flat.isnan().any()):
        raise ValueError("scores must not contain NaN")
    return flat


def topk_mask(scores: list[Tensor], k: int, absolute: bool) -> list[Tensor]:
    """Marks exactly the `k` largest entries over all tensors; of equal ones the lower global flat index wins."""
    if not scores:
        return []
    flat = _sortable(scores, absolute)
    if not 0 <= k <= flat.numel():
        raise ValueError(f"k must be between 0 and {flat.numel()}, the number of scores, got {k}")
    order = torch.argsort(flat, descending=True, stable=True)
    mask = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    mask[order[:k]] = True
    parts = mask.split([s.numel() for s in scores])
    return [p.reshape(s.shape).clone() for p, s in zip(parts, scores, strict=True)]


def kth_largest(scores: list[Tensor], k: int, absolute: bool) -> Tensor:
    """The `k`-th largest entry over all tensors, `k` from 1, 0-d."""
    flat = _sortable(scores, absolute)
    if not 1 <= k <= flat.numel():
        raise ValueError(f"k must be between 1 and {flat.numel()}, the number of scores, got {k}")
    return flat.topk(k).values[-1].clone()


for _function in (
    *(sparse_linear, sparse_linear_backward, expanded_linear, expanded_linear_backward),
    *(expand, expand_bits, collect, sampled_gradient, guided_sample, random_subset, topk_mask, kth_largest),
    *(compress, compress_mask, rewire, transpose_index, tile_index, bit_index),
):
    library.impl(_function.__name__, _function, "CompositeExplicitAutograd")

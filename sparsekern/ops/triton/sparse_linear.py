"""Linear layers whose pattern is a bitmask: loaded as sparse, multiplied as dense.

Up to `FEW` rows of input a dense product waits for its weight: here the nonzeros and their bits are loaded instead, and
decoded in registers. More rows keep the matrix units busy, so that nothing is gained over the expanded weight. The
gradient of the weight is made in dense blocks of which only the active entries are stored.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..index import SEGMENT, Index
from ..shapes import flat
from ..sparse_linear import expanded_linear_backward_reference, expanded_linear_reference
from .expand import WORD, decoded, quads, store_active
from .launch import Config, launch, precision

FEW = 64
PROGRAMS = 256  # of a launch that fills a card; a constant, so that all cards add in the same order
CHUNK = 256  # the fewest rows of input that are worth a sum of their own
FEW_CONFIGS = [
    Config({"ROWS": 64}),
    Config({"ROWS": 64}, stages=2),
    Config({"ROWS": 128}, warps=8),
    Config({"ROWS": 32}),
]
CONFIGS = [
    Config({"ROWS": 128, "COLS": 128, "BATCH": 64}, warps=8),
    Config({"ROWS": 128, "COLS": 128, "BATCH": 32}, warps=8, stages=4),
    Config({"ROWS": 128, "COLS": 64, "BATCH": 64}),
    Config({"ROWS": 64, "COLS": 64, "BATCH": 64}),
]
TF32_CONFIGS = [Config({"ROWS": 128, "COLS": 64, "BATCH": 32}), Config({"ROWS": 64, "COLS": 64, "BATCH": 32})]
# Strict products of fp32 are made without matrix units. Triton 3.6 uses Blackwell's, as tf32, from four warps on.
STRICT_FEW_CONFIGS = [Config({"ROWS": 32}, warps=2), Config({"ROWS": 32}, warps=2, stages=2)]
STRICT_CONFIGS = [
    Config({"ROWS": 64, "COLS": 64, "BATCH": 32}, warps=2, stages=2),
    Config({"ROWS": 32, "COLS": 64, "BATCH": 32}, warps=2),
]
SUM = [Config({"BLOCK": 512})]


def sparse_linear(
    input: Tensor, values: Tensor, index: Sequence[Tensor], bias: Tensor | None, out_features: int
) -> Tensor:
    """`input @ W.T + bias`, sums kept in fp32."""
    index, x = Index.of(index), flat(input)
    if not (has_bits(values, index) and 0 < len(x) <= FEW):
        return expanded_linear_reference(input, values, index, bias, out_features)
    segment_ptr, bits, (batch, cols) = index.segment_ptr, index.bits, x.shape
    parts, span = split(bits.shape[1], triton.cdiv(out_features, SEGMENT), 4)
    output = x.new_empty(batch, out_features)
    target = output if parts == 1 else x.new_empty(parts, batch, out_features, dtype=torch.float32)
    launch(
        _forward,
        lambda blocks: (triton.cdiv(out_features, blocks["ROWS"]), parts),
        *(values, x, segment_ptr, bits, bias if parts == 1 else None, target),
        *(batch, out_features, cols, bits.shape[1], span, *x.stride()),
        configs=STRICT_FEW_CONFIGS if strict(x) else FEW_CONFIGS,
        sizes=(batch, out_features, cols),
        ITEMS=max(16, triton.next_power_of_2(batch)),
        PRECISION=precision(),
    )
    if parts > 1:
        add(target, output, bias)
    return output.reshape(*input.shape[:-1], out_features)


def sparse_linear_backward(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: Sequence[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `sparse_linear`; what is not needed is returned with no elements."""
    index, delta, x = Index.of(index), flat(grad_output), flat(input)
    if not (has_bits(values, index) and len(x)):
        return expanded_linear_backward_reference(grad_output, input, values, index, need_input, need_values, need_bias)
    grad_input, grad_values = input.new_empty(0), values.new_empty(0)
    if need_input and len(x) <= FEW:
        grad_input = input_gradient(delta, values, index, x.shape[1]).reshape(input.shape)
    elif need_input:
        grad_input = expanded_linear_backward_reference(grad_output, input, values, index, True, False, False)[0]
    if need_values:
        grad_values = weight_gradient(delta, x, values, index)
    return grad_input, grad_values, delta.sum(0) if need_bias else values.new_empty(0)


def has_bits(values: Tensor, index: Index) -> bool:
    """Whether the kernels of this file know the pattern and the dtype."""
    return index.bits.numel() > 0 and values.dtype != torch.float64


def split(length: int, blocks: int, least: int) -> tuple[int, int]:
    """Returns in how many parts programs add up `length` terms, where `blocks` of them alone would not fill a card, and
    the terms of a part, `least` or more."""
    parts = max(1, min(PROGRAMS // max(1, blocks), length // least))
    span = triton.cdiv(length, parts)
    return triton.cdiv(length, span), span


def input_gradient(delta: Tensor, values: Tensor, index: Index, cols: int) -> Tensor:
    """`delta @ W` for `delta` of at most `FEW` rows: `[batch, cols]`."""
    segment_ptr, bits, (batch, rows) = index.segment_ptr, index.bits, delta.shape
    segments = bits.shape[1]
    parts, span = split(rows, segments, 4 * SEGMENT)
    gradient = delta.new_empty(batch, cols)
    target = gradient if parts == 1 else delta.new_empty(parts, batch, cols, dtype=torch.float32)
    launch(
        _backward,
        lambda _: (segments, parts),
        *(values, delta, segment_ptr, bits, target, batch, rows, cols, segments, span, *delta.stride()),
        configs=STRICT_FEW_CONFIGS if strict(delta) else FEW_CONFIGS,
        sizes=(batch, rows, cols),
        ITEMS=max(16, triton.next_power_of_2(batch)),
        PRECISION=precision(),
    )
    if parts > 1:
        add(target, gradient)
    return gradient


def weight_gradient(delta: Tensor, x: Tensor, values: Tensor, index: Index) -> Tensor:
    """The active entries of `delta.T @ x`, `[capacity]`."""
    row_ptr, segment_ptr, bits = index.row_ptr, index.segment_ptr, index.bits
    (batch, rows), cols = delta.shape, x.shape[1]
    parts, span = split(batch, triton.cdiv(rows, 2 * SEGMENT) * triton.cdiv(cols, 2 * SEGMENT), CHUNK)
    gradient = values.new_empty(values.shape) if parts > 1 else torch.zeros_like(values)
    target = values.new_empty(parts, len(values), dtype=torch.float32) if parts > 1 else gradient

    def grid(blocks: dict[str, int]) -> tuple[int, ...]:
        return triton.cdiv(rows, blocks["ROWS"]) * triton.cdiv(cols, blocks["COLS"]), parts

    launch(
        _gradient,
        grid,
        *(x, delta, segment_ptr, bits, target, batch, rows, cols, bits.shape[1], len(values), span),
        *(*x.stride(), *delta.stride()),
        configs=STRICT_CONFIGS if strict(x) else TF32_CONFIGS if x.dtype == torch.float32 else CONFIGS,
        sizes=(batch, rows, cols),
        PRECISION=precision(),
    )
    if parts > 1:
        add(target, gradient, used=row_ptr)
    return gradient


def strict(x: Tensor, convolution: bool = False) -> bool:
    """Whether products of `x` are made without matrix units."""
    return x.dtype == torch.float32 and precision(convolution) == "ieee"


def add(parts: Tensor, out: Tensor, bias: Tensor | None = None, used: Tensor | None = None) -> None:
    """`out = parts.sum(0) + bias`, the sum in order. Of a pattern with `row_ptr` `used`, slots in use only: the others
    become zero."""
    size, width = out.numel(), out.shape[-1]
    rows = 0 if used is None else len(used) - 1
    arguments = (parts, bias, used, out, len(parts), size, width, rows)
    launch(_add, lambda blocks: (triton.cdiv(size, blocks["BLOCK"]),), *arguments, configs=SUM)


@triton.jit
def operand(values, slot, four, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Returns what `decoded` gives as an operand of a product. Triton 3.6 fails for Blackwell where a reshaped tensor
    is one; so the bits are reshaped as a whole number."""
    element: tl.constexpr = values.dtype.element_ty
    whole: tl.constexpr = tl.int32 if element.primitive_bitwidth == 32 else tl.int16
    return decoded(values.to(tl.pointer_type(whole), bitcast=True), slot, four, ROWS, COLS).to(element, bitcast=True)


@triton.jit(do_not_specialize=["batch"])
def _forward(
    values, x, segment_ptr, bits, bias, out, batch, rows, cols, segments, span, x_row, x_col,
    ROWS: tl.constexpr, ITEMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds up a part of the columns for `ROWS` outputs of every item. Reads each nonzero once: `density * element +
    3/16` bytes a weight instead of `element`, which is what counts while the input is small."""
    row, part = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    item = tl.arange(0, ITEMS)[None, :].to(tl.int64)
    lane = tl.arange(0, WORD)[:, None]
    sums = tl.zeros([ROWS, ITEMS], tl.float32)
    for segment in range(part * span, tl.minimum((part + 1) * span, segments)):
        column = segment * WORD + lane
        slot, four = quads(segment_ptr, bits, row[:, None], row[:, None] < rows, segment * WORD, segments, WORD)
        weight = operand(values, slot, four, ROWS, WORD)
        entries = tl.load(x + item * x_row + column * x_col, (item < batch) & (column < cols), 0)
        sums = tl.dot(weight, entries, sums, input_precision=PRECISION)
    valid = (row[:, None] < rows) & (item < batch)
    if bias is not None:
        sums += tl.load(bias + row, row < rows, 0).to(tl.float32)[:, None]
    target = out + (part * batch + item) * rows + row[:, None]
    tl.store(target, sums.to(out.dtype.element_ty), valid)


@triton.jit(do_not_specialize=["batch"])
def _backward(
    values, delta, segment_ptr, bits, out, batch, rows, cols, segments, span, d_row, d_col,
    ROWS: tl.constexpr, ITEMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds up a part of the rows for a segment of the input gradient of every item, with the traffic of `_forward`."""
    segment, part = tl.program_id(0), tl.program_id(1)
    item = tl.arange(0, ITEMS)[None, :].to(tl.int64)
    lane = tl.arange(0, ROWS)[:, None]
    stop = tl.minimum((part + 1) * span, rows)
    sums = tl.zeros([WORD, ITEMS], tl.float32)
    for start in range(part * span, stop, ROWS):
        row = start + lane
        slot, four = quads(segment_ptr, bits, row, row < stop, segment * WORD, segments, WORD)
        weight = operand(values, slot, four, ROWS, WORD)
        entries = tl.load(delta + item * d_row + row * d_col, (item < batch) & (row < stop), 0)
        sums = tl.dot(tl.trans(weight), entries, sums, input_precision=PRECISION)
    column = segment * WORD + tl.arange(0, WORD)[:, None]
    target = out + (part * batch + item) * cols + column
    tl.store(target, sums.to(out.dtype.element_ty), (column < cols) & (item < batch))


@triton.jit(do_not_specialize=["batch", "capacity", "span"])
def _gradient(
    x, delta, segment_ptr, bits, out, batch, rows, cols, segments, capacity, span, x_row, x_col, d_row, d_col,
    ROWS: tl.constexpr, COLS: tl.constexpr, BATCH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of `delta.T @ x` over a part of the batch, of which the active entries are stored. A dense gradient is
    bound by the bytes it writes up to some 367 rows; of those `density` are left. A block without nonzeros does
    nothing."""
    down, across = tl.cdiv(rows, ROWS), tl.cdiv(cols, COLS)
    # Neighbouring programs share their operands in L2.
    i, j = tl.swizzle2d(tl.program_id(0) // across, tl.program_id(0) % across, down, across, 8)
    part, first = tl.program_id(1), j * COLS
    row = i * ROWS + tl.arange(0, ROWS)[:, None]
    column = first + tl.arange(0, COLS)[None, :]
    item = tl.arange(0, BATCH)
    begin = part * span
    stop = tl.where(occupied(segment_ptr, row, rows, first, segments, COLS), tl.minimum(begin + span, batch), begin)
    sums = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(begin, stop, BATCH):
        b = (start + item).to(tl.int64)
        d = tl.load(delta + b[None, :] * d_row + row.to(tl.int64) * d_col, (b[None, :] < stop) & (row < rows), 0)
        h = tl.load(x + b[:, None] * x_row + column.to(tl.int64) * x_col, (b[:, None] < stop) & (column < cols), 0)
        sums = tl.dot(d, h, sums, input_precision=PRECISION)
    slot, four = quads(segment_ptr, bits, row, row < rows, first, segments, COLS)
    store_active(out + part.to(tl.int64) * capacity, slot, four, sums, ROWS, COLS)


@triton.jit
def occupied(segment_ptr, row, stop, first, segments, COLS: tl.constexpr):
    """Whether there are nonzeros in the rows `[ROWS, 1]` below `stop` and `COLS` columns from `first` on."""
    line = segment_ptr + row.to(tl.int64) * (segments + 1)
    left, right = tl.minimum(first // WORD, segments), tl.minimum((first + COLS) // WORD, segments)
    counts = tl.load(line + right, row < stop, 0) - tl.load(line + left, row < stop, 0)
    return tl.max(tl.max(counts, 1), 0) > 0


@triton.jit(do_not_specialize=["count", "size"])
def _add(parts, bias, used, out, count, size, width, rows, BLOCK: tl.constexpr):
    """Adds what the parts of a launch have left; memory traffic alone."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = i < size
    live = valid
    if used is not None:
        live = valid & (i < tl.load(used + rows))
    total = tl.zeros([BLOCK], tl.float32)
    line = parts + i
    for _ in range(count):
        total += tl.load(line, live, 0)
        line += size
    if bias is not None:
        total += tl.load(bias + i % width, valid, 0).to(tl.float32)
    tl.store(out + i, total.to(out.dtype.element_ty), valid)

"""The gradient of a linear layer's weight and the second moment of what the samples contribute to it, in one pass."""

from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Config, exact, launch, precision
from .moments import Parts, moments

CONFIGS = [
    Config({"ROWS": 128, "COLS": 64, "DEPTH": 32}, warps=8),
    Config({"ROWS": 64, "COLS": 64, "DEPTH": 32}),
    Config({"ROWS": 64, "COLS": 64, "DEPTH": 16}, stages=4),
]
IEEE = [Config({"ROWS": 64, "COLS": 64, "DEPTH": 16}), Config({"ROWS": 64, "COLS": 64, "DEPTH": 32}, warps=8)]


def gradient_moment(grad_output: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    """`sum_n a_n` and `sum_n a_n^2`, `a_n = sum_p grad_output[n, p]^T input[n, p]`: fp32."""
    batch, rows, cols = input.shape[0], grad_output.shape[-1], input.shape[-1]
    positions = prod(input.shape[1:-1])
    delta, h = grad_output.reshape(batch, positions, rows), input.reshape(batch, 1, positions, cols)
    return _of_samples(delta[:, 0], h[:, 0, 0]) if positions == 1 else moments(delta, h)


def _of_samples(delta: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    (batch, rows), cols, allowed = delta.shape, input.shape[1], precision()
    parts = Parts(rows, cols, 1, batch, 1, input.device)

    def grid(blocks: dict[str, int]) -> tuple[int, ...]:
        return triton.cdiv(rows, blocks["ROWS"]) * triton.cdiv(cols, blocks["COLS"]), parts.count

    launch(
        _squares,
        grid,
        delta,
        input,
        parts.gradient,
        parts.moment,
        batch,
        parts.samples,
        rows,
        cols,
        delta.stride(),
        input.stride(),
        configs=IEEE if input.dtype == torch.float32 and allowed == "ieee" else CONFIGS,
        sizes=(batch, rows, cols),
        PRECISION=exact(allowed),
    )
    return parts.total()


@triton.jit(do_not_specialize=["batch", "samples"])
def _squares(
    delta,
    input,
    gradient,
    moment,
    batch,
    samples,
    rows,
    cols,
    delta_strides,
    input_strides,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Computes both sums for inputs without positions. There the gradient of a sample is one product, and its square is
    the product of the squares, so that the moment is a matrix product, too."""
    across, part = tl.cdiv(cols, COLS), tl.program_id(1)
    row = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(0) % across * COLS + tl.arange(0, COLS)
    delta += (row.to(tl.int64) * delta_strides[1])[:, None]
    input += (col.to(tl.int64) * input_strides[1])[None, :]
    total, squares = tl.zeros([ROWS, COLS], tl.float32), tl.zeros([ROWS, COLS], tl.float32)
    last = tl.minimum(batch, (part + 1) * samples)
    for start in range(part * samples, last, DEPTH):
        sample = start + tl.arange(0, DEPTH)
        inside, at = sample < last, sample.to(tl.int64)
        d = tl.load(delta + (at * delta_strides[0])[None, :], (row < rows)[:, None] & inside[None, :], 0)
        h = tl.load(input + (at * input_strides[0])[:, None], inside[:, None] & (col < cols)[None, :], 0)
        total = tl.dot(d, h, total, input_precision=PRECISION)
        squares = _add_squares(d, h, squares, PRECISION)
    at = (part * rows + row).to(tl.int64)[:, None] * cols + col[None, :]
    valid = (row < rows)[:, None] & (col < cols)[None, :]
    tl.store(gradient + at, total, valid)
    tl.store(moment + at, squares, valid)


@triton.jit
def _add_squares(a, b, total, PRECISION: tl.constexpr):
    """`total + (a * a) @ (b * b)`. A square of a 16-bit number has more digits than such numbers hold. It is exact as
    the sum of two bf16 numbers, whose range is that of fp32, or two of TF32: a weight that a single sample moves has a
    moment that is the square of its gradient."""
    a_square = a.to(tl.float32) * a.to(tl.float32)
    b_square = b.to(tl.float32) * b.to(tl.float32)
    if a.dtype == tl.float32:
        total = tl.dot(a_square, b_square, total, input_precision=PRECISION)
    elif a.dtype == tl.float16:
        total = tl.dot(a_square, b_square, total, input_precision="tf32x3")
    else:
        a_high, b_high = a_square.to(tl.bfloat16), b_square.to(tl.bfloat16)
        a_low = (a_square - a_high.to(tl.float32)).to(tl.bfloat16)
        b_low = (b_square - b_high.to(tl.float32)).to(tl.bfloat16)
        total = tl.dot(a_low, b_low, total)
        total = tl.dot(a_low, b_high, total)
        total = tl.dot(a_high, b_low, total)
        total = tl.dot(a_high, b_high, total)
    return total

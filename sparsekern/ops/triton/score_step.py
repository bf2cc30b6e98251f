"""A step of the scores of all weights, after which the gradient is zero off the pattern: one pass, memory traffic."""

import triton
import triton.language as tl
from torch import Tensor

from ..index import SEGMENT
from .bit_index import bit_index
from .launch import Config, launch

CONFIGS = [Config({"ROWS": 16}), Config({"ROWS": 4}), Config({"ROWS": 64}, warps=8)]


def score_step(
    score: Tensor,
    momentum_buffer: Tensor,
    gradient: Tensor,
    weight: Tensor,
    row_ptr: Tensor,
    col: Tensor,
    lr: float,
    momentum: float,
) -> None:
    """`momentum_buffer <- momentum * momentum_buffer + gradient * weight`, `score <- score - lr * momentum_buffer`,
    `gradient <- 0` off the pattern. The dense tensors are contiguous."""
    rows = row_ptr.shape[0] - 1
    cols = weight.numel() // max(1, rows)
    bits = bit_index(row_ptr, col, cols)
    launch(
        _step,
        lambda blocks: (triton.cdiv(rows, blocks["ROWS"]), bits.shape[1]),
        score,
        momentum_buffer,
        gradient,
        weight,
        bits,
        rows,
        cols,
        lr,
        momentum,
        configs=CONFIGS,
        sizes=(rows, cols),
        SEGMENT=SEGMENT,
    )


@triton.jit
def _step(score, buffer, gradient, weight, bits, rows, cols, lr, momentum, ROWS: tl.constexpr, SEGMENT: tl.constexpr):
    """28 bytes a weight in fp32, and a bit of the pattern; of the gradient only zeros are written."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
    segment = tl.program_id(1)
    lane = tl.arange(0, SEGMENT)[None, :]
    valid = (row < rows) & (segment * SEGMENT + lane < cols)
    i = row * cols + segment * SEGMENT + lane
    word = tl.load(bits + row * tl.num_programs(1) + segment, row < rows, 0)
    step = tl.load(gradient + i, valid).to(tl.float32) * tl.load(weight + i, valid).to(tl.float32)
    step += momentum * tl.load(buffer + i, valid)
    tl.store(buffer + i, step, valid)
    tl.store(score + i, tl.load(score + i, valid) - lr * step, valid)
    absent = ((word >> lane.to(tl.int64)) & 1) == 0
    tl.store(gradient + i, tl.zeros([ROWS, SEGMENT], gradient.dtype.element_ty), valid & absent)

"""Gradients and second moments of samples with positions, in one pass: what convolutions and sequences share."""

from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..conv_geometry import ConvGeometry
from .launch import Config, exact, launch, precision


def _config(rows: int, cols: int, depth: int, warps: int, stages: int) -> Config:
    return Config({"ROWS": rows, "COLS": cols, "DEPTH": depth}, warps, stages)


# Three tiles of sums of 128 x 128 are 192 registers of a thread, more than that a multiprocessor cannot hold; they need
# half the traffic of 64 x 64. A convolution leaves no registers for them.
LARGE = [_config(128, 128, 32, 8, 4), _config(128, 64, 32, 8, 3), _config(64, 64, 32, 4, 3)]
MIDDLE = [_config(128, 64, 32, 8, 3), _config(64, 64, 32, 4, 3), _config(64, 64, 16, 4, 4)]
LOW = [_config(64, 64, 32, 4, 3), _config(64, 64, 16, 4, 4)]
SMALL = [_config(16, 32, 32, 2, 3), _config(16, 16, 32, 1, 3)]
IEEE = [_config(64, 64, 16, 4, 4), _config(128, 64, 16, 8, 3)]
PROGRAMS, DEPTH = 512, 128  # as many programs as fill a card, if each has so many terms to add


class Parts:
    """Sums over equal parts of a batch: one part, or as many as fill a card where the tiles of the weight do not. How
    many depends on the extents alone, so that the result does not depend on the card.

    Attributes:
        samples: of a part.
        gradient, moment: fp32 `[parts, rows, cols]`.
    """

    def __init__(self, rows: int, cols: int, groups: int, samples: int, depth: int, device: torch.device) -> None:
        """
        Args:
            rows, cols: of a group of the weight.
            depth: how many terms a sample adds to each sum.
        """
        tiles = groups * triton.cdiv(rows, 64) * triton.cdiv(cols, 64)
        most = min(PROGRAMS // max(1, tiles), samples, samples * depth // DEPTH)
        self.samples = triton.cdiv(samples, max(1, most))
        self.count = max(1, triton.cdiv(samples, max(1, self.samples)))
        self.gradient, self.moment = (torch.empty(self.count, groups * rows, cols, device=device) for _ in range(2))

    def total(self) -> tuple[Tensor, Tensor]:
        """Gradient and moment, the parts added in their order."""
        if self.count == 1:
            return self.gradient[0], self.moment[0]
        return self.gradient.sum(0), self.moment.sum(0)


def moments(
    delta: Tensor, input: Tensor, geometry: ConvGeometry | None = None, width: int = 0
) -> tuple[Tensor, Tensor]:
    """`sum_n a_n` and `sum_n a_n^2`, a_n the gradient that sample n alone gives the weight: fp32 `[out, cols]`, the
    columns in the order of a weight `[out, channels / groups, kernel height, kernel width]`.

    Args:
        delta: `[batch, positions, out]`.
        input: `[batch, height, width, channels]`; of a linear layer `[batch, 1, positions, channels]`.
        width: of the output: how many positions are in a row.
    """
    delta, input = _near(delta), _near(input)
    (batch, positions, out), groups = delta.shape, 1 if geometry is None else geometry.groups
    channels = input.shape[3] // groups
    rows, cols = out // groups, channels * (prod(geometry.kernel_size) if geometry else 1)
    parts = Parts(rows, cols, groups, batch, triton.cdiv(positions, 64) * 64, input.device)
    allowed = precision(convolution=geometry is not None)

    def grid(blocks: dict[str, int]) -> tuple[int, ...]:
        return triton.cdiv(rows, blocks["ROWS"]) * triton.cdiv(cols, blocks["COLS"]), parts.count, groups

    launch(
        _shares,
        grid,
        delta,
        input,
        parts.gradient,
        parts.moment,
        batch,
        parts.samples,
        positions,
        (rows, channels, *input.shape[1:3], max(1, width)),
        delta.stride(),
        input.stride(),
        configs=_configs(rows, cols, geometry, input.dtype == torch.float32),
        sizes=(batch * positions, rows, cols),
        WINDOW=geometry and geometry.constants,
        PRECISION=exact(allowed),
    )
    return parts.total()


def _near(tensor: Tensor) -> Tensor:
    """Offsets within a sample have 31 bits."""
    reach = sum((n - 1) * stride for n, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True))
    return tensor if reach < 2**31 else tensor.contiguous()


def _configs(rows: int, cols: int, geometry: ConvGeometry | None, fp32: bool) -> list[Config]:
    if rows <= 16:
        return SMALL
    if fp32:
        return IEEE
    if rows < 128:
        return LOW
    return LARGE if geometry is None and cols >= 128 else MIDDLE


@triton.jit(do_not_specialize=["batch", "samples", "positions"])
def _shares(
    delta,
    input,
    gradient,
    moment,
    batch,
    samples,
    positions,
    shape,
    delta_strides,
    input_strides,
    WINDOW: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """The products of the gradient alone, with the positions of a sample padded to DEPTH. Where a sample ends, its
    share, still in registers, is added, and its square. One loop over samples and positions: loads run ahead over the
    end of a sample. Columns come tap after tap, so that the channels of a pixel lie side by side."""
    rows, channels, height, width, out_width = shape
    cols = channels if WINDOW is None else channels * (WINDOW[0] * WINDOW[1])
    across, part, group = tl.cdiv(cols, COLS), tl.program_id(1), tl.program_id(2)
    row = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(0) % across * COLS + tl.arange(0, COLS)
    delta_at = (group * rows + row) * delta_strides[2]
    if WINDOW is None:
        input_at, entry = col * input_strides[3], col
    else:
        tap, channel = col // channels, col % channels
        down, right = tap // WINDOW[1] * WINDOW[6], tap % WINDOW[1] * WINDOW[7]
        input_at = (group * channels + channel) * input_strides[3]
        input_at += down * input_strides[1] + right * input_strides[2]
        entry = channel * (WINDOW[0] * WINDOW[1]) + tap
    share = tl.zeros([ROWS, COLS], tl.float32)
    total, squares = share, share
    steps = tl.cdiv(positions, DEPTH)
    for i in range(part * samples * steps, tl.minimum(batch, (part + 1) * samples) * steps):
        sample, step = (i // steps).to(tl.int64), i % steps
        position = step * DEPTH + tl.arange(0, DEPTH)
        inside = position < positions
        at = delta_at[:, None] + (position * delta_strides[1])[None, :]
        d = tl.load(delta + sample * delta_strides[0] + at, (row < rows)[:, None] & inside[None, :], 0)
        seen = inside[:, None] & (col < cols)[None, :]
        if WINDOW is None:
            at = (position * input_strides[2])[:, None] + input_at[None, :]
        else:
            y, x = position // out_width * WINDOW[2] - WINDOW[4], position % out_width * WINDOW[3] - WINDOW[5]
            at = (y * input_strides[1] + x * input_strides[2])[:, None] + input_at[None, :]
            # What is above or on the left of the image is, as an unsigned number, beyond it.
            seen = seen & ((y[:, None] + down[None, :]).to(tl.uint32, bitcast=True) < height)
            seen = seen & ((x[:, None] + right[None, :]).to(tl.uint32, bitcast=True) < width)
        h = tl.load(input + sample * input_strides[0] + at, seen, 0)
        share = tl.dot(d, h, share, input_precision=PRECISION)
        if step == steps - 1:
            total += share
            squares += share * share
            share = tl.zeros([ROWS, COLS], tl.float32)
    line = ((part * tl.num_programs(2) + group) * rows + row).to(tl.int64) * cols
    at = line[:, None] + entry[None, :]
    valid = (row < rows)[:, None] & (col < cols)[None, :]
    tl.store(gradient + at, total, valid)
    tl.store(moment + at, squares, valid)

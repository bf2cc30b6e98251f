"""The weight gradient of a convolution at a list of coordinates: dot products over the positions of one channel of
`grad_output` with what a tap sees of one channel of the images.

The images are read channel by channel, positions side by side: those in another memory format are copied. Beside that
copy and the result a launch takes the sums of its parts, at most `PROGRAMS` blocks of them. Nothing has the size of the
weight.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..conv_geometry import ConvGeometry
from .launch import Config, launch
from .sparse_linear import CHUNK, add, split

LISTED = 16  # coordinates of a block as `split` counts them
CONFIGS = [
    Config({"LISTED": 16, "LANES": 128}, stages=1),
    Config({"LISTED": 32, "LANES": 64}, stages=1),
    Config({"LISTED": 8, "LANES": 256}, stages=1),
    Config({"LISTED": 16, "LANES": 128}, warps=8, stages=1),
]


def sampled_conv2d_gradient(grad_output: Tensor, input: Tensor, coordinates: Tensor, *geometry) -> Tensor:
    """dL/dW at flat coordinates of `[out, channels / groups, kernel height, kernel width]`, `[n]`, fp32; NaN where one
    is out of range, which the host is not told."""
    w, (x, delta) = ConvGeometry(*geometry), (tensor.contiguous() for tensor in (input, grad_output))
    _, rows, height, width = delta.shape
    n, positions = coordinates.numel(), len(delta) * height * width
    parts, span = split(positions, triton.cdiv(n, LISTED), CHUNK) if n and positions else (1, 0)
    sums = coordinates.new_empty((parts, n), dtype=torch.float32)
    launch(
        _dots,
        lambda blocks: (triton.cdiv(n, blocks["LISTED"]), parts),
        *(x, delta, coordinates.contiguous(), sums, n, positions, span, rows, rows // w.groups, w.cols(x)),
        *(x.shape[1], x.shape[1] // w.groups, *x.shape[2:], height, width),
        *(w.stride[0], w.stride[1], w.padding[0], w.padding[2], w.dilation[0], w.dilation[1]),
        configs=CONFIGS,
        sizes=(positions, rows, w.cols(x)),
        KERNEL_H=w.kernel_size[0],
        KERNEL_W=w.kernel_size[1],
        WIDE=max(x.numel(), delta.numel()) >= 2**31,
    )
    if parts == 1:
        return sums[0]
    gradient = sums.new_empty(n)
    add(sums, gradient)
    return gradient


@triton.jit(do_not_specialize=["n", "positions", "span"])
def _dots(
    x, delta, coordinates, out, n, positions, span, rows, group, cols,
    all_channels, channels, x_height, x_width, height, width, stride_h, stride_w, top, left, dilation_h, dilation_w,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, WIDE: tl.constexpr, LISTED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Some coordinates over a part of the positions: two numbers read for a product, in stretches of an image's width
    at most. Ascending coordinates share a channel of `delta`, which then comes from L1: bound by what L1 delivers, some
    32 products a clock and multiprocessor in bf16. Positions are added lane by lane, then the lanes."""
    listed = tl.program_id(0) * LISTED + tl.arange(0, LISTED)
    given = tl.load(coordinates + listed, listed < n, 0)
    inside = (given >= 0) & (given // cols < rows)
    place = tl.where(inside, given, 0)
    row, col = (place // cols).to(tl.int32)[:, None], (place % cols).to(tl.int32)[:, None]
    tap_h, tap_w = col // KERNEL_W % KERNEL_H * dilation_h - top, col % KERNEL_W * dilation_w - left
    channel = row // group * channels + col // (KERNEL_H * KERNEL_W)
    area, x_area = height * width, x_height * x_width
    if WIDE:
        row, channel = row.to(tl.int64), channel.to(tl.int64)
    h, d = x + (channel * x_area + tap_h * x_width + tap_w), delta + row * area
    begin = tl.program_id(1) * span
    stop = tl.minimum(begin + span, positions)
    sums = tl.zeros([LISTED, LANES], tl.float32)
    for start in range(begin, stop, LANES):
        position = start + tl.arange(0, LANES)[None, :]
        image, pixel, live = position // area, position % area, position < stop
        if WIDE:
            image = image.to(tl.int64)
        y, z = pixel // width * stride_h, pixel % width * stride_w
        line, point = y + tap_h, z + tap_w
        seen = live & (line >= 0) & (line < x_height) & (point >= 0) & (point < x_width)
        error = tl.load(d + (image * rows * area + pixel), live & inside[:, None], 0).to(tl.float32)
        value = tl.load(h + (image * all_channels * x_area + y * x_width + z), seen & inside[:, None], 0)
        sums += error * value.to(tl.float32)
    total = tl.where(inside, tl.sum(sums, 1), float("nan"))
    tl.store(out + tl.program_id(1).to(tl.int64) * n + listed, total, listed < n)

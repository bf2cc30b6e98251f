"""Convolutions whose pattern is a bitmask: the products of `sparse_linear` with the patches of the images as rows.

The gradient of the weight addresses the patches in the images. Few patches are written out for the small products.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from ..conv_geometry import ConvGeometry
from ..index import SEGMENT, Index
from ..shapes import image_format
from ..sparse_conv2d import expanded_conv2d_backward_reference, expanded_conv2d_reference
from .expand import quads, store_active
from .launch import Config, launch, precision
from .sparse_linear import CHUNK, FEW, add, has_bits, input_gradient, occupied, split, strict
from .sparse_linear import sparse_linear as product

CONFIGS = [
    Config({"ROWS": 128, "COLS": 64, "BATCH": 32}, warps=8),
    Config({"ROWS": 128, "COLS": 128, "BATCH": 32}, warps=8),
    Config({"ROWS": 64, "COLS": 64, "BATCH": 32}),
]
STRICT_CONFIGS = [
    Config({"ROWS": 64, "COLS": 64, "BATCH": 16}, warps=2),
    Config({"ROWS": 32, "COLS": 64, "BATCH": 16}, warps=2),
]
NARROW = 16  # rows of a group below which its blocks are nearly empty


def sparse_conv2d(
    input: Tensor, values: Tensor, index: Sequence[Tensor], bias: Tensor | None, *geometry: Any
) -> Tensor:
    """`conv2d(input, W, bias)`, sums kept in fp32."""
    w, index = ConvGeometry(*geometry), Index.of(index)
    rows, size = index.rows, w.output_size(input.shape[2:])
    if not (has_bits(values, index) and _few(w, len(input), size)):
        return expanded_conv2d_reference(input, values, index, bias, *geometry)
    output = product(_patches(w, input), values, index, bias, rows)
    return output.reshape(len(input), *size, rows).movedim(3, 1).contiguous(memory_format=image_format(input))


def sparse_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: Sequence[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
    *geometry: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `sparse_conv2d`; what is not needed is returned with no elements."""
    w, index, rows = ConvGeometry(*geometry), Index.of(index), grad_output.shape[1]
    known = has_bits(values, index) and grad_output.numel() > 0
    own_input = need_input and known and _few(w, len(input), grad_output.shape[2:])
    own_values = need_values and known and (w.groups == 1 or rows // w.groups >= NARROW)
    needs = (need_input and not own_input, need_values and not own_values, need_bias)
    grad_input, grad_values, grad_bias = expanded_conv2d_backward_reference(
        grad_output, input, values, index, *needs, *geometry
    )
    if own_input:
        grad_input = _image_gradient(w, grad_output, input, values, index)
    if own_values:
        grad_values = _weight_gradient(w, grad_output, input, values, index)
    return grad_input, grad_values, grad_bias


def _few(w: ConvGeometry, batch: int, size: torch.Size | tuple[int, int]) -> bool:
    """Whether the products of the patches are small ones, groups aside, each of which would be a launch."""
    return w.groups == 1 and 0 < batch * size[0] * size[1] <= FEW


def _patches(w: ConvGeometry, input: Tensor) -> Tensor:
    """Every patch of the images as a row, `[batch * positions, channels * kernel height * kernel width]`."""
    patches = functional.unfold(w.padded(input), w.kernel_size, w.dilation, w.sides, w.stride)
    return patches.movedim(1, 2).reshape(-1, patches.shape[1])


def _image_gradient(w: ConvGeometry, grad_output: Tensor, input: Tensor, values: Tensor, index: Index) -> Tensor:
    delta = grad_output.movedim(1, 3).reshape(-1, grad_output.shape[1])
    patches = input_gradient(delta, values, index, w.cols(input)).reshape(len(input), -1, w.cols(input)).movedim(2, 1)
    top, bottom, left, right = w.padding
    size = input.shape[2:] if any(w.sides) else (input.shape[2] + top + bottom, input.shape[3] + left + right)
    folded = functional.fold(patches, size, w.kernel_size, w.dilation, w.sides, w.stride)
    return w.cropped(folded).contiguous(memory_format=image_format(input))


def _weight_gradient(w: ConvGeometry, grad_output: Tensor, input: Tensor, values: Tensor, index: Index) -> Tensor:
    """The active entries of the product of `grad_output`, positions by rows, with the patches: `[capacity]`."""
    row_ptr, segment_ptr, bits = index.row_ptr, index.segment_ptr, index.bits
    batch, rows, height, width = grad_output.shape
    cols, group = w.cols(input), rows // w.groups
    positions = batch * height * width
    blocks = w.groups * triton.cdiv(group, 2 * SEGMENT) * triton.cdiv(cols, 2 * SEGMENT)
    parts, span = split(positions, blocks, CHUNK)
    gradient = values.new_empty(values.shape) if parts > 1 else torch.zeros_like(values)
    target = values.new_empty(parts, len(values), dtype=torch.float32) if parts > 1 else gradient

    def grid(sizes: dict[str, int]) -> tuple[int, ...]:
        return triton.cdiv(group, sizes["ROWS"]) * triton.cdiv(cols, sizes["COLS"]), parts, w.groups

    launch(
        _gradient,
        grid,
        *(input, grad_output, segment_ptr, bits, target, positions, group, cols, bits.shape[1], len(values), span),
        *(input.shape[1] // w.groups, *input.shape[2:], height, width),
        *(*input.stride(), *grad_output.stride()),
        *(w.stride[0], w.stride[1], w.padding[0], w.padding[2], w.dilation[0], w.dilation[1]),
        configs=STRICT_CONFIGS if strict(input, convolution=True) else CONFIGS,
        sizes=(positions, group, cols),
        KERNEL_H=w.kernel_size[0],
        KERNEL_W=w.kernel_size[1],
        WIDE=max(_extent(input), _extent(grad_output)) >= 2**31,
        PRECISION=precision(convolution=True),
    )
    if parts > 1:
        add(target, gradient, used=row_ptr)
    return gradient


def _extent(tensor: Tensor) -> int:
    """Returns how far the last element is from the first, in elements."""
    return sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))


@triton.jit(do_not_specialize=["positions", "capacity", "span"])
def _gradient(
    x, delta, segment_ptr, bits, out, positions, group, cols, segments, capacity, span,
    channels, x_height, x_width, height, width,
    x_image, x_channel, x_line, x_pixel, d_image, d_row, d_line, d_pixel,
    stride_h, stride_w, top, left, dilation_h, dilation_w,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, BATCH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of the product of a group over a part of the positions, of which the active entries are stored: the
    traffic of the dense gradient, whose operands are read from L2 as often as the taps of the kernel overlap, without
    the dense gradient itself. A block without nonzeros does nothing."""
    down, across = tl.cdiv(group, ROWS), tl.cdiv(cols, COLS)
    i, j = tl.swizzle2d(tl.program_id(0) // across, tl.program_id(0) % across, down, across, 8)
    part, g, first = tl.program_id(1), tl.program_id(2), j * COLS
    stop_row = (g + 1) * group
    row = g * group + i * ROWS + tl.arange(0, ROWS)[:, None]
    column = first + tl.arange(0, COLS)[None, :]
    tap_h, tap_w = column // KERNEL_W % KERNEL_H * dilation_h - top, column % KERNEL_W * dilation_w - left
    channel = g * channels + column // (KERNEL_H * KERNEL_W)
    tap = channel * x_channel + tap_h * x_line + tap_w * x_pixel
    lane = tl.arange(0, BATCH)
    begin = part * span
    stop = tl.where(
        occupied(segment_ptr, row, stop_row, first, segments, COLS), tl.minimum(begin + span, positions), begin
    )
    sums = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(begin, stop, BATCH):
        position = start + lane
        image, y, z = position // (width * height), position // width % height, position % width
        if WIDE:
            image = image.to(tl.int64)
        live = position < stop
        source = (image * d_image + y * d_line + z * d_pixel)[None, :]
        d = tl.load(delta + (source + row * d_row), live[None, :] & (row < stop_row), 0)
        line, pixel = (y * stride_h)[:, None] + tap_h, (z * stride_w)[:, None] + tap_w
        seen = (line >= 0) & (line < x_height) & (pixel >= 0) & (pixel < x_width)
        corner = image * x_image + y * stride_h * x_line + z * stride_w * x_pixel
        h = tl.load(x + (corner[:, None] + tap), seen & live[:, None] & (column < cols), 0)
        sums = tl.dot(d, h, sums, input_precision=PRECISION)
    slot, four = quads(segment_ptr, bits, row, row < stop_row, first, segments, COLS)
    store_active(out + part.to(tl.int64) * capacity, slot, four, sums, ROWS, COLS)

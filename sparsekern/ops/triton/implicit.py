"""The kernels of masked convolutions, and so of masked linear layers, whose image is one pixel.

They are implicit matrix products: nothing is unfolded. Shapes are (rows, channels, height, width, out height, out
width), rows and channels of a group. Strides are those of the weight (row, channel, y, x), of images that are read
(image, y, x), their channels lying side by side, and of images that are written (image, channel, y, x).
"""

import triton
import triton.language as tl

from .blocks import any_present, present


@triton.jit(do_not_specialize=["samples"])
def _masked_forward(
    input,
    weight,
    bias,
    output,
    words,
    steps,
    samples,
    shape,
    input_strides,
    weight_strides,
    output_strides,
    PER_TAP: tl.constexpr,
    WINDOW: tl.constexpr,
    LAST: tl.constexpr,
    PRECISION: tl.constexpr,
    SEGMENT: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLS: tl.constexpr,
):
    """2 * rows * cols * samples operations. A program reads a block of the weight, a bit beside each entry, for every
    SAMPLES pixels, and of these what the block sees for every ROWS channels. The weight is the left operand: masked in
    registers, it is multiplied from there."""
    rows, channels, height, width, out_height, out_width = shape
    image_stride, y_stride, x_stride = input_strides
    row_stride, in_stride, tap_y_stride, tap_x_stride = weight_strides
    group, across = tl.program_id(1), tl.cdiv(rows, ROWS)
    first = tl.program_id(0) % across * ROWS
    row = first + tl.arange(0, ROWS)
    sample = tl.program_id(0) // across * SAMPLES + tl.arange(0, SAMPLES)
    image, y, x = places(sample, out_height, out_width)
    top, left = y * WINDOW[2] - WINDOW[4], x * WINDOW[3] - WINDOW[5]
    corner = image.to(tl.int64) * image_stride + group * channels
    whole = (group * rows + row).to(tl.int64)
    taps: tl.constexpr = WINDOW[0] * WINDOW[1]
    steps += (group * tl.cdiv(rows, BLOCK) + first // BLOCK).to(tl.int64) * (1 + taps * PER_TAP)
    total = tl.zeros([ROWS, SAMPLES], tl.float32)
    for i in range(tl.load(steps) * (SEGMENT // COLS)):
        step, part = tl.load(steps + 1 + i // (SEGMENT // COLS)), i % (SEGMENT // COLS) * COLS
        down, right = within(step // PER_TAP, WINDOW)
        channel = step % PER_TAP * SEGMENT + part + tl.arange(0, COLS)
        entry = whole[:, None] * row_stride + down * tap_y_stride + right * tap_x_stride + channel[None, :] * in_stride
        entries = tl.load(weight + entry, (row < rows)[:, None] & (channel < channels)[None, :], 0)
        exists = present(words, whole * (taps * PER_TAP), row < rows, step, 1, part, COLS, SEGMENT)
        v, u = top + down * WINDOW[6], left + right * WINDOW[7]
        seen = (sample < samples) & (v >= 0) & (v < height) & (u >= 0) & (u < width)
        pixel = corner + v * y_stride + u * x_stride
        pixels = load_pixels(input, channel, channel < channels, pixel, seen)
        total = tl.dot(tl.where(exists, entries, 0), tl.trans(pixels), total, input_precision=PRECISION)
    if bias is not None:
        total += tl.load(bias + group * rows + row, row < rows, 0).to(tl.float32)[:, None]
    image_stride, channel_stride, y_stride, x_stride = output_strides
    pixel = image.to(tl.int64) * image_stride + y * y_stride + x * x_stride
    output += group * rows * channel_stride
    store_pixels(output, total, row, row < rows, channel_stride, pixel, sample < samples, LAST)


@triton.jit(do_not_specialize=["batch"])
def _masked_input_gradient(
    grad_output,
    weight,
    grad_input,
    words,
    steps,
    batch,
    shape,
    output_strides,
    weight_strides,
    input_strides,
    PER_TAP: tl.constexpr,
    WINDOW: tl.constexpr,
    PHASES: tl.constexpr,
    LAST: tl.constexpr,
    PRECISION: tl.constexpr,
    SEGMENT: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLS: tl.constexpr,
):
    """Takes as many operations and as much traffic as forward, whatever the stride: the pixels of a program have one
    place within it, and only the taps that reach them are summed."""
    rows, channels, height, width, out_height, out_width = shape
    image_stride, y_stride, x_stride = output_strides
    row_stride, in_stride, tap_y_stride, tap_x_stride = weight_strides
    phase, group, across = tl.program_id(1), tl.program_id(2), tl.cdiv(channels, COLS)
    first_y, first_x = within(phase, PHASES)
    tall, wide = tl.cdiv(height - first_y, WINDOW[2]), tl.cdiv(width - first_x, WINDOW[3])
    first = tl.program_id(0) % across * COLS
    channel = first + tl.arange(0, COLS)
    sample = tl.program_id(0) // across * SAMPLES + tl.arange(0, SAMPLES)
    samples = batch * tall * wide
    image, y, x = places(sample, tall, wide)
    y, x = first_y + y * WINDOW[2], first_x + x * WINDOW[3]
    corner = image.to(tl.int64) * image_stride + group * rows
    taps: tl.constexpr = WINDOW[0] * WINDOW[1]
    blocks, of_rows = tl.cdiv(channels, BLOCK), tl.cdiv(rows, SEGMENT)
    own = (group * tl.num_programs(1) + phase) * blocks + first // BLOCK
    steps += own.to(tl.int64) * (1 + taps * of_rows)
    total = tl.zeros([COLS, SAMPLES], tl.float32)
    for i in range(tl.load(steps) * (SEGMENT // ROWS)):
        step = tl.load(steps + 1 + i // (SEGMENT // ROWS))
        tap = step // of_rows
        down, right = within(tap, WINDOW)
        row = step % of_rows * SEGMENT + i % (SEGMENT // ROWS) * ROWS + tl.arange(0, ROWS)
        whole = (group * rows + row).to(tl.int64)
        entry = whole[:, None] * row_stride + down * tap_y_stride + right * tap_x_stride + channel[None, :] * in_stride
        entries = tl.load(weight + entry, (row < rows)[:, None] & (channel < channels)[None, :], 0)
        at, line = first // SEGMENT, whole * (taps * PER_TAP) + tap * PER_TAP
        exists = present(words, line, row < rows, at, PER_TAP - at, first % SEGMENT, COLS, SEGMENT)
        v, u = (y + WINDOW[4] - down * WINDOW[6]) // WINDOW[2], (x + WINDOW[5] - right * WINDOW[7]) // WINDOW[3]
        seen = (sample < samples) & (v >= 0) & (v < out_height) & (u >= 0) & (u < out_width)
        pixel = corner + v * y_stride + u * x_stride
        pixels = load_pixels(grad_output, row, row < rows, pixel, seen)
        masked = tl.trans(tl.where(exists, entries, 0))
        total = tl.dot(masked, tl.trans(pixels), total, input_precision=PRECISION)
    image_stride, channel_stride, y_stride, x_stride = input_strides
    pixel = image.to(tl.int64) * image_stride + y * y_stride + x * x_stride
    grad_input += group * channels * channel_stride
    store_pixels(grad_input, total, channel, channel < channels, channel_stride, pixel, sample < samples, LAST)


@triton.jit(do_not_specialize=["samples", "share"])
def _masked_weight_gradient(
    grad_output,
    input,
    gradient,
    words,
    samples,
    share,
    size,
    shape,
    output_strides,
    input_strides,
    weight_strides,
    PER_TAP: tl.constexpr,
    WINDOW: tl.constexpr,
    PRECISION: tl.constexpr,
    SEGMENT: tl.constexpr,
    ROWS: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLS: tl.constexpr,
):
    """Takes as many operations as forward for every block of the weight that has an entry, none for the others; the
    gradient is written once, masked in registers."""
    rows, channels, height, width, out_height, out_width = shape
    group, across = tl.program_id(2), tl.cdiv(rows, ROWS)
    row = tl.program_id(0) % across * ROWS + tl.arange(0, ROWS)
    step, per_tap = tl.program_id(0) // across, tl.cdiv(channels, COLS)
    tap, first = step // per_tap, step % per_tap * COLS
    down, right = within(tap, WINDOW)
    channel = first + tl.arange(0, COLS)
    whole = (group * rows + row).to(tl.int64)
    at, line = first // SEGMENT, whole * (WINDOW[0] * WINDOW[1] * PER_TAP) + tap * PER_TAP
    total = tl.zeros([ROWS, COLS], tl.float32)
    if any_present(words, line, row < rows, at, PER_TAP - at, COLS, SEGMENT):
        start = tl.program_id(1) * share
        end = tl.minimum(start + share, samples)
        grad_output += group * rows
        input += group * channels
        for k in range(start, end, SAMPLES):
            sample = k + tl.arange(0, SAMPLES)
            image, y, x = places(sample, out_height, out_width)
            pixel = image.to(tl.int64) * output_strides[0] + y * output_strides[1] + x * output_strides[2]
            delta = load_pixels(grad_output, row, row < rows, pixel, sample < end)
            v, u = y * WINDOW[2] - WINDOW[4] + down * WINDOW[6], x * WINDOW[3] - WINDOW[5] + right * WINDOW[7]
            seen = (sample < end) & (v >= 0) & (v < height) & (u >= 0) & (u < width)
            pixel = image.to(tl.int64) * input_strides[0] + v * input_strides[1] + u * input_strides[2]
            pixels = load_pixels(input, channel, channel < channels, pixel, seen)
            total = tl.dot(tl.trans(delta), pixels, total, input_precision=PRECISION)
    entry = whole[:, None] * weight_strides[0] + down * weight_strides[2] + right * weight_strides[3]
    entry += tl.program_id(1).to(tl.int64) * size + channel[None, :] * weight_strides[1]
    exists = present(words, line, row < rows, at, PER_TAP - at, first % SEGMENT, COLS, SEGMENT)
    total = tl.where(exists, total, 0).to(gradient.dtype.element_ty)
    tl.store(gradient + entry, total, (row < rows)[:, None] & (channel < channels)[None, :])


@triton.jit
def within(place, WINDOW: tl.constexpr):
    """Down and right in a kernel of the height WINDOW[0] and the width WINDOW[1], line by line."""
    down, right = 0, 0  # known when it is compiled, or addresses would not be known to be aligned
    if WINDOW[0] * WINDOW[1] > 1:
        down, right = place // WINDOW[1], place % WINDOW[1]
    return down, right


@triton.jit
def places(sample, height, width):
    """The image and the place in it of every pixel."""
    return sample // (height * width), sample // width % height, sample % width


@triton.jit
def load_pixels(images, channel, valid, pixel, seen):
    """`[pixels, channels]`, zero where `valid` or `seen` are not."""
    return tl.load(images + pixel[:, None] + channel[None, :], seen[:, None] & valid[None, :], 0)


@triton.jit
def store_pixels(images, block, channel, valid, channel_stride, pixel, seen, LAST: tl.constexpr):
    """Writes `[channels, pixels]`; LAST: where channels lie side by side, as they do wherever they are read."""
    block = block.to(images.dtype.element_ty)
    if LAST:
        tl.store(images + pixel[:, None] + channel[None, :], tl.trans(block), seen[:, None] & valid[None, :])
    else:
        place = channel[:, None] * channel_stride + pixel[None, :]
        tl.store(images + place, block, valid[:, None] & seen[None, :])

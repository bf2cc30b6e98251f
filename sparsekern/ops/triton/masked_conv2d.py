"""Convolutions with a dense weight under a bitmask, as implicit matrix products.

Nothing is unfolded and no masked weight is made: a block of the weight goes to registers, loses what does not exist
there, and is multiplied. Blocks without any entry are skipped. The arithmetic is that of a dense convolution, the
traffic that of one plus 1/16 (16 bits a weight) for the bits: what is saved over a masked twin is reading, masking and
writing the weight before every product, and the same of its gradient after.

Images and weights are read in channels_last, 16 bytes at a time; what is in another format is copied into it first, as
cuDNN does for tensor cores. A group of few output channels takes a whole block of rows all the same.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..conv_geometry import ConvGeometry
from ..index import SEGMENT, Index
from ..shapes import accumulate_dtype, empty_image
from ..straight_through import weight_gradient
from .blocks import BLOCK, by_tap, steps_backward, steps_forward
from .implicit import _masked_forward, _masked_input_gradient, _masked_weight_gradient
from .launch import Config, launch, precision

# ROWS x COLS of the weight, SAMPLES pixels. Of ROWS and COLS what is summed over divides SEGMENT, the other BLOCK.
# A stage is for the list of steps, one for the products: of five, three hold blocks.
FORWARD = [
    Config({"ROWS": 128, "SAMPLES": 128, "COLS": 64}, warps=8, stages=5),
    Config({"ROWS": 128, "SAMPLES": 256, "COLS": 32}, warps=8, stages=5),
    Config({"ROWS": 64, "SAMPLES": 128, "COLS": 64}, warps=8, stages=5),
    Config({"ROWS": 64, "SAMPLES": 64, "COLS": 64}, stages=5),
]
BACKWARD = [
    Config({"ROWS": 64, "SAMPLES": 128, "COLS": 128}, warps=8, stages=5),
    Config({"ROWS": 32, "SAMPLES": 256, "COLS": 128}, warps=8, stages=5),
    Config({"ROWS": 64, "SAMPLES": 128, "COLS": 64}, warps=8, stages=5),
    Config({"ROWS": 64, "SAMPLES": 64, "COLS": 64}, stages=5),
]
GRADIENT = [
    Config({"ROWS": 128, "SAMPLES": 64, "COLS": 128}, warps=8),
    Config({"ROWS": 128, "SAMPLES": 64, "COLS": 64}),
    Config({"ROWS": 64, "SAMPLES": 64, "COLS": 64}, stages=4),
]
# Without tensor cores every entry of a block is multiplied from registers.
STRICT = [Config({"ROWS": 64, "SAMPLES": 64, "COLS": 16})]
STRICT_BACKWARD = [Config({"ROWS": 16, "SAMPLES": 64, "COLS": 64})]
STRICT_GRADIENT = [Config({"ROWS": 64, "SAMPLES": 16, "COLS": 64})]
PROGRAMS, SHARE = 256, 1024  # of the weight gradient: as many programs as fill a card, each with enough pixels


class Product(NamedTuple):
    """The arguments that all three products share."""

    words: Tensor  # the bitmask by taps
    geometry: ConvGeometry
    precision: str

    @property
    def groups(self) -> int:
        return self.geometry.groups

    @property
    def taps(self) -> int:
        return self.words.shape[1]


def masked_conv2d(
    input: Tensor, weight: Tensor, index: Sequence[Tensor], bias: Tensor | None, *geometry_and_active: Any
) -> Tensor:
    """`conv2d(input, W * mask, bias)`."""
    *geometry, _ = geometry_and_active
    product = _product(weight, index, ConvGeometry(*geometry))
    size = product.geometry.output_size(input.shape[2:])
    output = empty_image(input, (input.shape[0], weight.shape[0], *size))
    forward(input, weight, bias, output, product)
    return output


def masked_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    index: Sequence[Tensor],
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    *geometry_and_active: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `masked_conv2d`; what is not needed is returned with no elements. The dense gradient of the weight
    has nothing to be masked: cuDNN computes it."""
    *geometry, active = geometry_and_active
    product = _product(weight, index, ConvGeometry(*geometry))
    grad_input, grad_weight = input.new_empty(0), weight.new_empty(0)
    if need_input:
        grad_input = input_gradient(grad_output, weight, empty_image(input, input.shape), product)
    if need_weight and active:
        grad_weight = active_gradient(grad_output, input, weight, product)
    elif need_weight:
        dense = weight_gradient(grad_output, input, tuple(weight.shape), product.geometry)
        grad_weight = empty_image(weight, weight.shape).copy_(dense)
    grad_bias = grad_output.sum((0, 2, 3)).to(weight.dtype) if need_bias else weight.new_empty(0)
    return grad_input, grad_weight, grad_bias


def _product(weight: Tensor, index: Sequence[Tensor], geometry: ConvGeometry) -> Product:
    taps = geometry.kernel_size[0] * geometry.kernel_size[1]
    return Product(by_tap(Index.of(index).bits, weight.shape[1], taps), geometry, precision(convolution=True))


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor, product: Product) -> None:
    """Writes the convolution of `input` into `output`."""
    groups, (_, out, height, width) = product.groups, output.shape
    rows, samples, input, weight = (
        out // groups,
        output.shape[0] * height * width,
        _by_channels(input),
        _by_channels(weight),
    )
    shape = (rows, weight.shape[1], *input.shape[2:], height, width)

    def grid(blocks: dict[str, int]) -> tuple[int, ...]:
        return triton.cdiv(rows, blocks["ROWS"]) * triton.cdiv(samples, blocks["SAMPLES"]), groups

    launch(
        _masked_forward,
        grid,
        input,
        weight,
        bias,
        output,
        product.words,
        steps_forward(product.words, groups),
        samples,
        shape,
        _strides(input),
        weight.stride(),
        output.stride(),
        configs=_configs(FORWARD, STRICT, "COLS", product, weight.dtype),
        sizes=(samples, *shape[:2]),
        PER_TAP=product.words.shape[2],
        WINDOW=product.geometry.constants,
        LAST=output.stride(1) == 1,
        PRECISION=product.precision,
        SEGMENT=SEGMENT,
        BLOCK=BLOCK,
    )


def input_gradient(grad_output: Tensor, weight: Tensor, grad_input: Tensor, product: Product) -> Tensor:
    """Writes the gradient into `grad_input`, which it returns."""
    groups, (batch, _, height, width), geometry = product.groups, grad_input.shape, product.geometry.constants
    grad_output, weight = _by_channels(grad_output), _by_channels(weight)
    shape = (weight.shape[0] // groups, weight.shape[1], height, width, *grad_output.shape[2:])
    phases = min(geometry[2], height), min(geometry[3], width)
    samples = batch * triton.cdiv(height, geometry[2]) * triton.cdiv(width, geometry[3])

    def grid(blocks: dict[str, int]) -> tuple[int, ...]:
        of_channels = triton.cdiv(shape[1], blocks["COLS"])
        return of_channels * triton.cdiv(samples, blocks["SAMPLES"]), phases[0] * phases[1], groups

    launch(
        _masked_input_gradient,
        grid,
        grad_output,
        weight,
        grad_input,
        product.words,
        steps_backward(product.words, groups, geometry, phases),
        batch,
        shape,
        _strides(grad_output),
        weight.stride(),
        grad_input.stride(),
        configs=_configs(BACKWARD, STRICT_BACKWARD, "ROWS", product, weight.dtype),
        sizes=(samples, *shape[:2]),
        PER_TAP=product.words.shape[2],
        WINDOW=geometry,
        PHASES=phases,
        LAST=grad_input.stride(1) == 1,
        PRECISION=product.precision,
        SEGMENT=SEGMENT,
        BLOCK=BLOCK,
    )
    return grad_input


def active_gradient(grad_output: Tensor, input: Tensor, weight: Tensor, product: Product) -> Tensor:
    """The gradient of the weight, zero where there is none. Where there are few blocks of the weight, the pixels are
    shared out, and the shares added in their order."""
    groups, (batch, out, height, width) = product.groups, grad_output.shape
    rows, channels, samples = out // groups, weight.shape[1], batch * height * width
    shape = (rows, channels, *input.shape[2:], height, width)
    programs = triton.cdiv(rows, BLOCK) * triton.cdiv(channels, SEGMENT) * product.taps * groups
    grad_output, input = _by_channels(grad_output), _by_channels(input)
    shares = max(1, min(PROGRAMS // max(1, programs), samples // SHARE))
    share = triton.cdiv(samples, shares)
    gradient = empty_image(weight, weight.shape)
    parts = (
        gradient if shares == 1 else gradient.new_empty((shares, *gradient.shape), dtype=accumulate_dtype(weight.dtype))
    )

    def grid(blocks: dict[str, int]) -> tuple[int, ...]:
        columns = triton.cdiv(channels, blocks["COLS"]) * product.taps
        return triton.cdiv(rows, blocks["ROWS"]) * columns, shares, groups

    launch(
        _masked_weight_gradient,
        grid,
        grad_output,
        input,
        parts,
        product.words,
        samples,
        share,
        weight.numel(),
        shape,
        _strides(grad_output),
        _strides(input),
        parts.stride()[-4:],
        configs=_configs(GRADIENT, STRICT_GRADIENT, "SAMPLES", product, weight.dtype),
        sizes=(samples, *shape[:2]),
        PER_TAP=product.words.shape[2],
        WINDOW=product.geometry.constants,
        PRECISION=product.precision,
        SEGMENT=SEGMENT,
    )
    return gradient if shares == 1 else gradient.copy_(parts.sum(0))


def _by_channels(tensor: Tensor) -> Tensor:
    """The same with the channels of a place side by side."""
    return tensor if tensor.stride(1) == 1 else tensor.contiguous(memory_format=torch.channels_last)


def _strides(images: Tensor) -> tuple[int, int, int]:
    """Strides of images, their rows and their pixels."""
    strides = images.stride()
    return strides[0], strides[2], strides[3]


def _configs(configs: list[Config], strict: list[Config], summed: str, product: Product, dtype: torch.dtype) -> list:
    """Halves blocks of 4-byte elements where they are summed over; 256 pixels take too many registers."""
    if dtype != torch.float32:
        return configs
    if product.precision == "ieee":
        return strict
    halved = [c._replace(blocks={**c.blocks, summed: c.blocks[summed] // 2}) for c in configs]
    return [c for c in halved if c.blocks["SAMPLES"] < 256]

"""What every operator returns for tensors without numbers: `torch.compile` and fake tensors ask it."""

from typing import Any

import torch
from torch import Tensor

from .schema import SCHEMAS, TILE, library
from .shapes import accumulate_dtype, empty_image, output_size


def sparse_linear(input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, out_features: int) -> Tensor:
    return input.new_empty((*input.shape[:-1], out_features))


def sparse_linear_backward(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        input.new_empty(input.shape if need_input else (0,)),
        values.new_empty(values.shape if need_values else (0,)),
        values.new_empty(grad_output.shape[-1:] if need_bias else (0,)),
    )


def sparse_conv2d(
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    bias: Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    image = output_size(input.shape[2:], kernel_size, stride, padding, dilation)
    size = (input.shape[0], index[0].shape[0] - 1, *image)
    return input.new_empty(size) if input.device.type == "cpu" else empty_image(input, size)


def expanded_conv2d(input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, *window) -> Tensor:
    return empty_image(input, sparse_conv2d(input, values, index, bias, *window).shape)


def sparse_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    plain = input.device.type == "cpu" or not need_input
    return (
        input.new_empty(input.shape if need_input else (0,)) if plain else empty_image(input, input.shape),
        values.new_empty(values.shape if need_values else (0,)),
        values.new_empty(grad_output.shape[1:2] if need_bias else (0,)),
    )


def expanded_conv2d_backward(grad_output: Tensor, input: Tensor, *rest) -> tuple[Tensor, Tensor, Tensor]:
    grad_input, grad_values, grad_bias = sparse_conv2d_backward(grad_output, input, *rest)
    return empty_image(input, input.shape) if grad_input.dim() == 4 else grad_input, grad_values, grad_bias


def masked_linear(input: Tensor, weight: Tensor, index: list[Tensor], bias: Tensor | None, active: bool) -> Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


def masked_conv2d(
    input: Tensor,
    weight: Tensor,
    index: list[Tensor],
    bias: Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    active: bool,
) -> Tensor:
    size = output_size(input.shape[2:], kernel_size, stride, padding, dilation)
    return empty_image(input, (input.shape[0], weight.shape[0], *size))


def masked_linear_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    *window_and_active: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        empty_image(input, input.shape) if need_input else input.new_empty(0),
        empty_image(weight, weight.shape) if need_weight else weight.new_empty(0),
        weight.new_empty(weight.shape[:1] if need_bias else (0,)),
    )


def expand(values: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, cols: int) -> Tensor:
    return values.new_empty((stop - start, cols))


def expand_bits(values: Tensor, tile_ptr: Tensor, bits: Tensor, start: int, stop: int, cols: int) -> Tensor:
    return values.new_empty((stop - start, cols))


def collect(dense: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, out: Tensor) -> None:
    return None


def sampled_gradient(grad_output: Tensor, input: Tensor, coordinates: Tensor, *window) -> Tensor:
    return input.new_empty(coordinates.shape, dtype=accumulate_dtype(input.dtype))


def guided_sample(
    row_weight: Tensor, col_weight: Tensor, row_ptr: Tensor, col: Tensor, n: int, seed: int
) -> tuple[Tensor, Tensor]:
    return col.new_empty((n,), dtype=torch.int64), col.new_empty((), dtype=torch.int64)


def random_subset(out: Tensor, size: int, seed: int) -> None:
    return None


def compress(coordinates: Tensor, rows: int, cols: int, capacity: int) -> tuple[Tensor, Tensor]:
    return coordinates.new_empty((rows + 1,), dtype=torch.int32), coordinates.new_empty((capacity,), dtype=torch.int32)


def compress_mask(mask: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    return compress(mask, mask.shape[0], mask.shape[1], capacity)


def rewire(
    row_ptr: Tensor, col: Tensor, keep: Tensor, grow: Tensor, capacity: int, cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(row_ptr), col.new_empty((capacity,)), col.new_empty((capacity,))


def transpose_index(row_ptr: Tensor, col: Tensor, cols: int) -> tuple[Tensor, Tensor, Tensor]:
    return col.new_empty((cols + 1,)), torch.empty_like(col), torch.empty_like(col)


def tile_index(ptr: Tensor, index: Tensor, extent: int) -> Tensor:
    return index.new_empty((ptr.shape[0] - 1, (extent + TILE - 1) // TILE + 1))


def bit_index(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    return col.new_empty((row_ptr.shape[0] - 1, (cols + TILE - 1) // TILE), dtype=torch.int64)


def topk_mask(scores: list[Tensor], k: int, absolute: bool) -> list[Tensor]:
    return [torch.empty_like(s, dtype=torch.bool, memory_format=torch.contiguous_format) for s in scores]


def kth_largest(scores: list[Tensor], k: int, absolute: bool) -> Tensor:
    return scores[0].new_empty(())


def gradient_moment(grad_output: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    gradient = input.new_empty((grad_output.shape[-1], input.shape[-1]), dtype=accumulate_dtype(input.dtype))
    return gradient, torch.empty_like(gradient)


def conv2d_gradient_moment(
    grad_output: Tensor,
    input: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    shape = (grad_output.shape[1], input.shape[1] // groups, *kernel_size)
    gradient = input.new_empty(shape, dtype=accumulate_dtype(input.dtype))
    return gradient, torch.empty_like(gradient)


def snr_update(ratio: Tensor, gradient: Tensor, moment: Tensor, batch: int, decay: float, first: bool) -> None:
    return None


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
    return None


expanded_linear = sparse_linear
sampled_conv2d_gradient = sampled_gradient
expanded_linear_backward = sparse_linear_backward
masked_conv2d_backward = masked_linear_backward

for _name in SCHEMAS:
    torch.library.register_fake(f"sparsekern::{_name}", globals()[_name], lib=library)

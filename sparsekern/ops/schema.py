"""Operator schemas and their shape functions.

Everything is declared here, in Python, so that the package imports and runs
without a compiler. `index` is the tensor list `Topology.index`:

    row_ptr [rows+1], col [capacity]                     row-major CSR
    t_ptr [cols+1], t_row [capacity], t_pos [capacity]   the transposed walk: `t_pos` is the slot in `values`; all three
                                                         only for the linear kernels of the CPU, t_ptr for convolutions
    tile_ptr [rows, tiles+1] or empty                    slot where each 64-column segment of a row starts
    t_tile_ptr [cols, t_tiles+1] or empty                the same for the transposed walk
    bits [rows, tiles] or empty                          which columns of each segment exist, the lowest bit first

bits are int64, the others int32, columns sorted within a row. `row_ptr[-1]` slots are in use; the
rest is slack: `values` holds zero there and its gradient is zero.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

library = torch.library.Library("sparsekern", "DEF")

# How a convolution moves over its input; padding is (top, bottom, left, right).
WINDOW = "int[] kernel_size, int[] stride, int[] padding, int[] dilation, int groups"

SCHEMAS = {
    "sparse_linear": "(Tensor input, Tensor values, Tensor[] index, Tensor? bias, SymInt out_features) -> Tensor",
    "sparse_linear_backward": "(Tensor grad_output, Tensor input, Tensor values, Tensor[] index, bool need_input, "
    "bool need_values, bool need_bias) -> (Tensor, Tensor, Tensor)",
    "expanded_linear": "(Tensor input, Tensor values, Tensor[] index, Tensor? bias, SymInt out_features) -> Tensor",
    "expanded_linear_backward": "(Tensor grad_output, Tensor input, Tensor values, Tensor[] index, bool need_input, "
    "bool need_values, bool need_bias) -> (Tensor, Tensor, Tensor)",
    "sparse_conv2d": f"(Tensor input, Tensor values, Tensor[] index, Tensor? bias, {WINDOW}) -> Tensor",
    "sparse_conv2d_backward": "(Tensor grad_output, Tensor input, Tensor values, Tensor[] index, bool need_input, "
    f"bool need_values, bool need_bias, {WINDOW}) -> (Tensor, Tensor, Tensor)",
    "expanded_conv2d": f"(Tensor input, Tensor values, Tensor[] index, Tensor? bias, {WINDOW}) -> Tensor",
    "expanded_conv2d_backward": "(Tensor grad_output, Tensor input, Tensor values, Tensor[] index, bool need_input, "
    f"bool need_values, bool need_bias, {WINDOW}) -> (Tensor, Tensor, Tensor)",
    "masked_linear": "(Tensor input, Tensor weight, Tensor[] index, Tensor? bias, bool active) -> Tensor",
    "masked_linear_backward": "(Tensor grad_output, Tensor input, Tensor weight, Tensor[] index, bool need_input, "
    "bool need_weight, bool need_bias, bool active) -> (Tensor, Tensor, Tensor)",
    "masked_conv2d": f"(Tensor input, Tensor weight, Tensor[] index, Tensor? bias, {WINDOW}, bool active) -> Tensor",
    "masked_conv2d_backward": "(Tensor grad_output, Tensor input, Tensor weight, Tensor[] index, bool need_input, "
    f"bool need_weight, bool need_bias, {WINDOW}, bool active) -> (Tensor, Tensor, Tensor)",
    "expand": "(Tensor values, Tensor row_ptr, Tensor col, int start, int stop, SymInt cols) -> Tensor",
    "expand_bits": "(Tensor values, Tensor tile_ptr, Tensor bits, int start, int stop, SymInt cols) -> Tensor",
    "collect": "(Tensor dense, Tensor row_ptr, Tensor col, int start, int stop, Tensor(a!) out) -> ()",
    "sampled_gradient": "(Tensor grad_output, Tensor input, Tensor coordinates) -> Tensor",
    "guided_sample": "(Tensor row_weight, Tensor col_weight, Tensor row_ptr, Tensor col, SymInt n, int seed) "
    "-> (Tensor, Tensor)",
    "random_subset": "(Tensor(a!) out, SymInt size, int seed) -> ()",
    "compress": "(Tensor coordinates, SymInt rows, SymInt cols, SymInt capacity) -> (Tensor, Tensor)",
    "compress_mask": "(Tensor mask, SymInt capacity) -> (Tensor, Tensor)",
    "rewire": "(Tensor row_ptr, Tensor col, Tensor keep, Tensor grow, SymInt capacity, SymInt cols) "
    "-> (Tensor, Tensor, Tensor)",
    "transpose_index": "(Tensor row_ptr, Tensor col, SymInt cols) -> (Tensor, Tensor, Tensor)",
    "tile_index": "(Tensor ptr, Tensor index, SymInt extent) -> Tensor",
    "bit_index": "(Tensor row_ptr, Tensor col, SymInt cols) -> Tensor",
    "topk_mask": "(Tensor[] scores, int k, bool absolute) -> Tensor[]",
    "kth_largest": "(Tensor[] scores, int k, bool absolute) -> Tensor",
    "gradient_moment": "(Tensor grad_output, Tensor input) -> (Tensor, Tensor)",
    "conv2d_gradient_moment": f"(Tensor grad_output, Tensor input, {WINDOW}) -> (Tensor, Tensor)",
    "snr_update": "(Tensor(a!) ratio, Tensor gradient, Tensor moment, SymInt batch, float decay, bool first) -> ()",
    "score_step": "(Tensor(a!) score, Tensor(b!) momentum_buffer, Tensor(c!) gradient, Tensor weight, Tensor row_ptr, "
    "Tensor col, float lr, float momentum) -> ()",
}

for _name, _schema in SCHEMAS.items():
    library.define(_name + _schema)

TILE = 64
SNR_CAP = 1e6  # the largest signal-to-noise ratio


def _linear(input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, out_features: int) -> Tensor:
    return input.new_empty((*input.shape[:-1], out_features))


def _linear_backward(
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


def _conv2d(
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
    return input.new_empty(size) if input.device.type == "cpu" else _image(input, size)


def _expanded_conv2d(input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, *window) -> Tensor:
    return _image(input, _conv2d(input, values, index, bias, *window).shape)


def image_format(input: Tensor) -> torch.memory_format:
    """The memory format of images `[batch, channels, height, width]`."""
    last = not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _image(input: Tensor, size: Sequence[int]) -> Tensor:
    return torch.empty(size, dtype=input.dtype, device=input.device, memory_format=image_format(input))


def output_size(
    size: Sequence[int], kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[int, int]:
    """Height and width of what a convolution makes of an input of `size` (height, width)."""
    height, width = (
        (size[i] + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel_size[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    )
    return height, width


def _conv2d_backward(
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
        input.new_empty(input.shape if need_input else (0,)) if plain else _image(input, input.shape),
        values.new_empty(values.shape if need_values else (0,)),
        values.new_empty(grad_output.shape[1:2] if need_bias else (0,)),
    )


def _expanded_conv2d_backward(grad_output: Tensor, input: Tensor, *rest) -> tuple[Tensor, Tensor, Tensor]:
    grad_input, grad_values, grad_bias = _conv2d_backward(grad_output, input, *rest)
    return _image(input, input.shape) if grad_input.dim() == 4 else grad_input, grad_values, grad_bias


def _masked_linear(input: Tensor, weight: Tensor, index: list[Tensor], bias: Tensor | None, active: bool) -> Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


def _masked_conv2d(
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
    return _image(input, (input.shape[0], weight.shape[0], *size))


def _masked_backward(
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
        _image(input, input.shape) if need_input else input.new_empty(0),
        _image(weight, weight.shape) if need_weight else weight.new_empty(0),
        weight.new_empty(weight.shape[:1] if need_bias else (0,)),
    )


def _expand(values: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, cols: int) -> Tensor:
    return values.new_empty((stop - start, cols))


def _expand_bits(values: Tensor, tile_ptr: Tensor, bits: Tensor, start: int, stop: int, cols: int) -> Tensor:
    return values.new_empty((stop - start, cols))


def _collect(dense: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, out: Tensor) -> None:
    return None


def _sampled_gradient(grad_output: Tensor, input: Tensor, coordinates: Tensor) -> Tensor:
    return input.new_empty(coordinates.shape, dtype=_accumulate(input.dtype))


def _guided_sample(
    row_weight: Tensor, col_weight: Tensor, row_ptr: Tensor, col: Tensor, n: int, seed: int
) -> tuple[Tensor, Tensor]:
    return col.new_empty((n,), dtype=torch.int64), col.new_empty((), dtype=torch.int64)


def _random_subset(out: Tensor, size: int, seed: int) -> None:
    return None


def _compress(coordinates: Tensor, rows: int, cols: int, capacity: int) -> tuple[Tensor, Tensor]:
    return coordinates.new_empty((rows + 1,), dtype=torch.int32), coordinates.new_empty((capacity,), dtype=torch.int32)


def _compress_mask(mask: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    return _compress(mask, mask.shape[0], mask.shape[1], capacity)


def _rewire(
    row_ptr: Tensor, col: Tensor, keep: Tensor, grow: Tensor, capacity: int, cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(row_ptr), col.new_empty((capacity,)), col.new_empty((capacity,))


def _transpose_index(row_ptr: Tensor, col: Tensor, cols: int) -> tuple[Tensor, Tensor, Tensor]:
    return col.new_empty((cols + 1,)), torch.empty_like(col), torch.empty_like(col)


def _tile_index(ptr: Tensor, index: Tensor, extent: int) -> Tensor:
    return index.new_empty((ptr.shape[0] - 1, (extent + TILE - 1) // TILE + 1))


def _bit_index(row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    return col.new_empty((row_ptr.shape[0] - 1, (cols + TILE - 1) // TILE), dtype=torch.int64)


def _topk_mask(scores: list[Tensor], k: int, absolute: bool) -> list[Tensor]:
    return [torch.empty_like(s, dtype=torch.bool, memory_format=torch.contiguous_format) for s in scores]


def _kth_largest(scores: list[Tensor], k: int, absolute: bool) -> Tensor:
    return scores[0].new_empty(())


def _gradient_moment(grad_output: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    gradient = input.new_empty((grad_output.shape[-1], input.shape[-1]), dtype=_accumulate(input.dtype))
    return gradient, torch.empty_like(gradient)


def _conv2d_gradient_moment(
    grad_output: Tensor,
    input: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    shape = (grad_output.shape[1], input.shape[1] // groups, *kernel_size)
    gradient = input.new_empty(shape, dtype=_accumulate(input.dtype))
    return gradient, torch.empty_like(gradient)


def _snr_update(ratio: Tensor, gradient: Tensor, moment: Tensor, batch: int, decay: float, first: bool) -> None:
    return None


def _score_step(
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


def _accumulate(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over `dtype` are kept."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


FAKES = {
    "sparse_linear": _linear,
    "sparse_linear_backward": _linear_backward,
    "expanded_linear": _linear,
    "expanded_linear_backward": _linear_backward,
    "sparse_conv2d": _conv2d,
    "sparse_conv2d_backward": _conv2d_backward,
    "expanded_conv2d": _expanded_conv2d,
    "expanded_conv2d_backward": _expanded_conv2d_backward,
    "masked_linear": _masked_linear,
    "masked_linear_backward": _masked_backward,
    "masked_conv2d": _masked_conv2d,
    "masked_conv2d_backward": _masked_backward,
    "expand": _expand,
    "expand_bits": _expand_bits,
    "collect": _collect,
    "sampled_gradient": _sampled_gradient,
    "guided_sample": _guided_sample,
    "random_subset": _random_subset,
    "compress": _compress,
    "compress_mask": _compress_mask,
    "rewire": _rewire,
    "transpose_index": _transpose_index,
    "tile_index": _tile_index,
    "bit_index": _bit_index,
    "topk_mask": _topk_mask,
    "kth_largest": _kth_largest,
    "gradient_moment": _gradient_moment,
    "conv2d_gradient_moment": _conv2d_gradient_moment,
    "snr_update": _snr_update,
    "score_step": _score_step,
}

for _name, _fake in FAKES.items():
    torch.library.register_fake(f"sparsekern::{_name}", _fake, lib=library)

"""The launches that kernels are compiled for: calls of their functions on tensors that have a shape but no memory."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sparsekern.ops import cuda

BOTH = (torch.bfloat16, torch.float32)
ROWS, COLS, BATCH = 1024, 2048, 4096
SEGMENTS = COLS // 64
CAPACITY = ROWS * COLS // 10


class Launches(NamedTuple):
    """A call, the dtypes that it is made with, and which of its kernels are meant to multiply on matrix units."""

    call: Callable[[torch.dtype], object]
    dtypes: tuple[torch.dtype, ...] = BOTH
    matrix: tuple[str, ...] = ()


def _of(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _indices(*shape: int) -> Tensor:
    return _of(*shape, dtype=torch.int32)


def _expand(dtype: torch.dtype) -> object:
    return cuda.kernel("expand")(_of(CAPACITY, dtype=dtype), _indices(ROWS + 1), _indices(CAPACITY), 0, ROWS, COLS)


def _collect(dtype: torch.dtype) -> object:
    dense, out = _of(ROWS, COLS, dtype=dtype), _of(CAPACITY, dtype=dtype)
    return cuda.kernel("collect")(dense, _indices(ROWS + 1), _indices(CAPACITY), 0, ROWS, out)


def _expand_bits(dtype: torch.dtype) -> object:
    bits = _of(ROWS, SEGMENTS, dtype=torch.int64)
    return cuda.kernel("expand_bits")(_of(CAPACITY, dtype=dtype), _indices(ROWS, SEGMENTS + 1), bits, 0, ROWS, COLS)


def _bit_index(dtype: torch.dtype) -> object:
    return cuda.kernel("bit_index")(_indices(ROWS + 1), _indices(CAPACITY), COLS)


def _segment_index(dtype: torch.dtype) -> object:
    return cuda.kernel("segment_index")(_indices(ROWS + 1), _indices(CAPACITY), COLS)


def _compress_mask(dtype: torch.dtype) -> object:
    return cuda.kernel("compress_mask")(_of(ROWS, COLS, dtype=torch.bool), CAPACITY)


def _snr_update(dtype: torch.dtype) -> object:
    ratio, moment, gradient = (_of(ROWS, COLS, dtype=d) for d in (torch.float32, torch.float32, dtype))
    cuda.kernel("snr_update")(ratio, gradient, moment, BATCH, 0.9, True)
    return cuda.kernel("snr_update")(ratio, gradient, moment, BATCH, 0.9, False)


def _score_step(dtype: torch.dtype) -> object:
    tensors = [_of(ROWS, COLS, dtype=d) for d in (torch.float32, torch.float32, dtype, dtype)]
    return cuda.kernel("score_step")(*tensors, _indices(ROWS + 1), _indices(CAPACITY), 0.1, 0.9)


def _gradient_moment(*positions: int) -> Callable[[torch.dtype], object]:
    def call(dtype: torch.dtype) -> object:
        delta, input = (_of(256, *positions, features, dtype=dtype) for features in (ROWS, COLS))
        return cuda.kernel("gradient_moment")(delta, input)

    return call


def _conv2d_gradient_moment(groups: int) -> Callable[[torch.dtype], object]:
    def call(dtype: torch.dtype) -> object:
        delta, input = _of(256, 256, 7, 7, dtype=dtype), _of(256, 256, 14, 14, dtype=dtype)
        return cuda.kernel("conv2d_gradient_moment")(delta, input, [3, 3], [2, 2], [0, 1, 0, 1], [1, 1], groups)

    return call


def _rounded(call: Callable[[torch.dtype], object], to: str) -> Callable[[torch.dtype], object]:
    """With fp32 operands rounded to "tf32", or not, "ieee"."""

    def rounded(dtype: torch.dtype) -> object:
        settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
        before = [setting.fp32_precision for setting in settings]
        try:
            for setting in settings:
                setting.fp32_precision = to
            return call(dtype)
        finally:
            for setting, precision in zip(settings, before, strict=True):
                setting.fp32_precision = precision

    return rounded


def _topk_mask(dtype: torch.dtype) -> object:
    return cuda.kernel("topk_mask")([_of(ROWS, COLS, dtype=dtype)] * 3, CAPACITY, True)


def _kth_largest(dtype: torch.dtype) -> object:
    return cuda.kernel("kth_largest")([_of(ROWS, COLS, dtype=dtype)] * 3, CAPACITY, False)


def _moments(name: str, call: Callable[[torch.dtype], object], kernel: str) -> dict[str, Launches]:
    """In narrow numbers, in TF32 and in fp32, which no matrix unit multiplies."""
    return {
        name: Launches(call, (torch.bfloat16,), (kernel,)),
        f"{name} tf32": Launches(_rounded(call, "tf32"), (torch.float32,), (kernel,)),
        f"{name} ieee": Launches(_rounded(call, "ieee"), (torch.float32,)),
    }


def _bits(rows: int, cols: int) -> list[Tensor]:
    """As much of an index as the products under a bitmask look at."""
    return [*[_indices(0)] * 7, _of(rows, (cols + 63) // 64, dtype=torch.int64)]


def _masked_linear(dtype: torch.dtype) -> object:
    input, weight, bias = _of(BATCH, COLS, dtype=dtype), _of(ROWS, COLS, dtype=dtype), _of(ROWS, dtype=dtype)
    return cuda.kernel("masked_linear")(input, weight, _bits(ROWS, COLS), bias, False)


def _masked_linear_backward(dtype: torch.dtype) -> object:
    delta, input, weight = _of(BATCH, ROWS, dtype=dtype), _of(BATCH, COLS, dtype=dtype), _of(ROWS, COLS, dtype=dtype)
    backward = cuda.kernel("masked_linear_backward")
    return backward(delta, input, weight, _bits(ROWS, COLS), True, True, False, True)


def _convolution(dtype: torch.dtype, memory_format: torch.memory_format) -> tuple:
    """input, weight, index and the window of a 3x3 convolution of stride 2"""
    input, weight = _of(64, 128, 32, 32, dtype=dtype), _of(256, 128, 3, 3, dtype=dtype)
    input, weight = (tensor.contiguous(memory_format=memory_format) for tensor in (input, weight))
    return input, weight, _bits(256, 128 * 9), ([3, 3], [2, 2], [1, 1, 1, 1], [1, 1], 1)


def _masked_conv2d(dtype: torch.dtype, memory_format: torch.memory_format = torch.channels_last) -> object:
    input, weight, index, window = _convolution(dtype, memory_format)
    return cuda.kernel("masked_conv2d")(input, weight, index, _of(256, dtype=dtype), *window, False)


def _masked_conv2d_contiguous(dtype: torch.dtype) -> object:
    return _masked_conv2d(dtype, torch.contiguous_format)


def _masked_conv2d_backward(dtype: torch.dtype) -> object:
    input, weight, index, window = _convolution(dtype, torch.channels_last)
    delta = _of(64, 256, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
    backward = cuda.kernel("masked_conv2d_backward")
    return backward(delta, input, weight, index, True, True, False, *window, True)


def _index() -> list[Tensor]:
    none, segment_ptr, bits = _indices(0), _indices(ROWS, SEGMENTS + 1), _of(ROWS, SEGMENTS, dtype=torch.int64)
    return [_indices(ROWS + 1), _indices(CAPACITY), _indices(COLS + 1), none, none, segment_ptr, none, bits]


def _linear(dtype: torch.dtype) -> object:
    x, values, bias = _of(32, COLS, dtype=dtype), _of(CAPACITY, dtype=dtype), _of(ROWS, dtype=dtype)
    return cuda.kernel("sparse_linear")(x, values, _index(), bias, ROWS)


def _linear_backward(batch: int, need_input: bool, dtype: torch.dtype) -> object:
    delta, x, values = _of(batch, ROWS, dtype=dtype), _of(batch, COLS, dtype=dtype), _of(CAPACITY, dtype=dtype)
    return cuda.kernel("sparse_linear_backward")(delta, x, values, _index(), need_input, not need_input, False)


# A convolution of 2x2 with the weight of the linear layer.
WINDOW = ([2, 2], [1, 1], [0, 0, 0, 0], [1, 1], 1)


def _conv2d(dtype: torch.dtype) -> object:
    x, values, bias = _of(2, COLS // 4, 5, 5, dtype=dtype), _of(CAPACITY, dtype=dtype), _of(ROWS, dtype=dtype)
    return cuda.kernel("sparse_conv2d")(x, values, _index(), bias, *WINDOW)


def _conv2d_backward(dtype: torch.dtype) -> object:
    delta, x = _of(32, ROWS, 16, 16, dtype=dtype), _of(32, COLS // 4, 17, 17, dtype=dtype)
    needs = (False, True, False)
    return cuda.kernel("sparse_conv2d_backward")(delta, x, _of(CAPACITY, dtype=dtype), _index(), *needs, *WINDOW)


def _sampled_conv2d_gradient(dtype: torch.dtype) -> object:
    delta, x = _of(32, 256, 16, 16, dtype=dtype), _of(32, 128, 32, 32, dtype=dtype)
    coordinates = _of(9001, dtype=torch.int64)
    return cuda.kernel("sampled_conv2d_gradient")(delta, x, coordinates, [3, 3], [2, 2], [1, 1, 1, 1], [1, 1], 1)


_weight_gradient = partial(_linear_backward, BATCH, False)
FORWARD, BACKWARD = ("_masked_forward",), ("_masked_input_gradient", "_masked_weight_gradient")
LAUNCHES = {
    "expand": Launches(_expand),
    "collect": Launches(_collect),
    "expand_bits": Launches(_expand_bits),
    "bit_index": Launches(_bit_index, (torch.float32,)),
    "segment_index": Launches(_segment_index, (torch.float32,)),
    "compress_mask": Launches(_compress_mask, (torch.float32,)),
    "topk_mask": Launches(_topk_mask),
    "kth_largest": Launches(_kth_largest),
    **_moments("gradient_moment", _gradient_moment(), "_squares"),
    **_moments("gradient_moment of sequences", _gradient_moment(50), "_shares"),
    **_moments("conv2d_gradient_moment", _conv2d_gradient_moment(1), "_shares"),
    "conv2d_gradient_moment of each channel": Launches(_conv2d_gradient_moment(256), (torch.bfloat16,), ("_shares",)),
    "sampled_conv2d_gradient": Launches(_sampled_conv2d_gradient),
    "snr_update": Launches(_snr_update),
    "score_step": Launches(_score_step),
    "masked_linear": Launches(_masked_linear, (torch.bfloat16,), FORWARD),
    "masked_linear ieee": Launches(_rounded(_masked_linear, "ieee"), (torch.float32,)),
    "masked_linear_backward": Launches(_masked_linear_backward, (torch.bfloat16,), BACKWARD),
    "masked_linear_backward ieee": Launches(_rounded(_masked_linear_backward, "ieee"), (torch.float32,)),
    "masked_conv2d": Launches(_rounded(_masked_conv2d, "tf32"), BOTH, FORWARD),
    "masked_conv2d_backward": Launches(_rounded(_masked_conv2d_backward, "tf32"), BOTH, BACKWARD),
    "masked_conv2d contiguous": Launches(_masked_conv2d_contiguous, (torch.bfloat16,), FORWARD),
    "sparse_linear": Launches(_linear, matrix=("_forward",)),
    "sparse_linear_backward input": Launches(partial(_linear_backward, 32, True), matrix=("_backward",)),
    "sparse_linear_backward values": Launches(_weight_gradient, matrix=("_gradient",)),
    "sparse_linear_backward tf32": Launches(_rounded(_weight_gradient, "tf32"), (torch.float32,), ("_gradient",)),
    "sparse_conv2d": Launches(_conv2d, matrix=("_forward",)),
    "sparse_conv2d_backward": Launches(_rounded(_conv2d_backward, "tf32"), matrix=("_gradient",)),
    "sparse_conv2d_backward ieee": Launches(_rounded(_conv2d_backward, "ieee"), (torch.float32,)),
}

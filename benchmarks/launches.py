"""What kernels are compiled for: calls of their functions on tensors that have a shape but no memory."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sparsekern.ops import cuda

BOTH = (torch.bfloat16, torch.float32)
ROWS, COLS, BATCH = 1024, 2048, 4096
TILES = COLS // 64
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
    bits = _of(ROWS, TILES, dtype=torch.int64)
    return cuda.kernel("expand_bits")(_of(CAPACITY, dtype=dtype), _indices(ROWS, TILES + 1), bits, 0, ROWS, COLS)


def _bit_index(dtype: torch.dtype) -> object:
    return cuda.kernel("bit_index")(_indices(ROWS + 1), _indices(CAPACITY), COLS)


def _tile_index(dtype: torch.dtype) -> object:
    return cuda.kernel("tile_index")(_indices(ROWS + 1), _indices(CAPACITY), COLS)


def _compress_mask(dtype: torch.dtype) -> object:
    return cuda.kernel("compress_mask")(_of(ROWS, COLS, dtype=torch.bool), CAPACITY)


def _snr_update(dtype: torch.dtype) -> object:
    ratio, moment, gradient = (_of(ROWS, COLS, dtype=d) for d in (torch.float32, torch.float32, dtype))
    cuda.kernel("snr_update")(ratio, gradient, moment, BATCH, 0.9, True)
    return cuda.kernel("snr_update")(ratio, gradient, moment, BATCH, 0.9, False)


def _score_step(dtype: torch.dtype) -> object:
    tensors = [_of(ROWS, COLS, dtype=d) for d in (torch.float32, torch.float32, dtype, dtype)]
    return cuda.kernel("score_step")(*tensors, _indices(ROWS + 1), _indices(CAPACITY), 0.1, 0.9)


LAUNCHES = {
    "expand": Launches(_expand),
    "collect": Launches(_collect),
    "expand_bits": Launches(_expand_bits),
    "bit_index": Launches(_bit_index, (torch.float32,)),
    "tile_index": Launches(_tile_index, (torch.float32,)),
    "compress_mask": Launches(_compress_mask, (torch.float32,)),
    "snr_update": Launches(_snr_update),
    "score_step": Launches(_score_step),
}

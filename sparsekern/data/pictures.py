"""Picture files as tensors."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError, first_line, require

CHUNK = 1024


def decode(path: Path) -> Tensor:
    """Returns a picture as uint8 `[3, height, width]`; of 16 bits the upper 8."""
    io = require("torchvision.io")
    try:
        picture = io.read_image(str(path), io.ImageReadMode.RGB)
        return picture if picture.dtype == torch.uint8 else (picture.int() >> 8).byte()
    except RuntimeError:  # a format that torchvision does not know, or a damaged file
        return _decode_slowly(path)


def _decode_slowly(path: Path) -> Tensor:
    try:
        with require("PIL.Image").open(path) as picture:
            if picture.mode.startswith("I;16"):
                return torch.from_numpy((np.array(picture) >> 8).astype(np.uint8)).expand(3, -1, -1)
            if picture.mode in ("I", "F"):  # of unknown range
                raise UsageError(f"cannot read the image {path}: expected 8 or 16 bits a channel, got 32")
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    except Exception as error:  # a damaged picture raises what its format is read with
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"cannot read the image {path}: {first_line(error)}") from error


def read_all(paths: Sequence[Path], size: torch.Size) -> Tensor | None:
    """Returns all pictures, uint8 `[n, 3, height, width]`; None if one has another size."""
    images = torch.empty(len(paths), *size, dtype=torch.uint8)

    def fill(start: int) -> bool:
        for i in range(start, min(start + CHUNK, len(paths))):
            picture = decode(paths[i])
            if picture.shape != size:
                return False
            images[i] = picture
        return True

    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter
        for complete in pool.map(fill, range(0, len(paths), CHUNK)):
            if not complete:
                pool.shutdown(cancel_futures=True)
                return None
    return images

"""CIFAR-10 and CIFAR-100 in the format of their authors, "the Python version"."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError, first_line, require
from .in_memory import photographs
from .interface import Data


def cifar10(config: dict, download: bool) -> Data:
    """Returns CIFAR-10, 50,000 + 10,000 colour images of 32 x 32 pixels in ten classes."""
    train = [f"data_batch_{i}" for i in range(1, 6)]
    return _cifar("CIFAR10", "cifar-10-batches-py", train, ["test_batch"], "labels", 10, config, download)


def cifar100(config: dict, download: bool) -> Data:
    """Returns CIFAR-100, 50,000 + 10,000 colour images of 32 x 32 pixels in a hundred classes."""
    return _cifar("CIFAR100", "cifar-100-python", ["train"], ["test"], "fine_labels", 100, config, download)


def _cifar(
    name: str, base: str, train: list[str], test: list[str], key: str, classes: int, config: dict, download: bool
) -> Data:
    root = Path(config["data_dir"] or "data")
    folder = root / base
    try:
        if download:
            getattr(require("torchvision.datasets"), name)(str(root), download=True)
        parts = [_read([folder / file for file in files], key, classes) for files in (train, test)]
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        if isinstance(error, UsageError):
            raise
        if not folder.is_dir():
            problem = f"could not be fetched ({first_line(error)})" if download else "is not there"
            raise UsageError(
                f"{name} {problem}: no folder {folder}; give the folder that holds it with --data-dir or fetch it with "
                "--download"
            ) from error
        raise UsageError(
            f"{name} in {folder} is incomplete or damaged ({first_line(error)}); delete the folder and fetch it with "
            "--download"
        ) from error
    (train_x, train_y), (test_x, test_y) = parts
    return photographs(train_x, train_y, test_x, test_y, classes)


def _read(files: list[Path], key: str, classes: int) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for path in files:
        with path.open("rb") as file:
            batch = _Arrays(file, encoding="latin1").load()
        images.append(np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
        labels += batch[key]
    x, y = torch.from_numpy(np.concatenate(images)), torch.tensor(labels, dtype=torch.int64)
    if len(x) != len(y) or not len(y) or not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise ValueError(f"{len(x)} images, {len(y)} labels, expected as many, of 0 to {classes - 1}")
    return x, y


class _Arrays(pickle.Unpickler):
    """Reads dictionaries, lists and NumPy arrays; a pickle that asks for anything else is refused, not run."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}")

"""Small sets that are learned from as they are, without augmentation: digits, clothes, tables."""

from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError, first_line, require
from .in_memory import InMemory
from .interface import Data
from .tabular import encode, read_csv


def split(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns rows of a data set without a test set of its own: 80 % to train on, 20 % to test, drawn by `seed`."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[n // 5 :], order[: n // 5]


def digits(config: dict, download: bool) -> Data:
    """Returns 1,797 handwritten digits of 8 x 8 pixels, bundled with scikit-learn; a seeded 80/20 split."""
    bunch = require("sklearn.datasets").load_digits()
    x = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    y = torch.from_numpy(bunch.target).long()
    train, test = split(len(y), config["seed"])
    mean, std = x[train].mean(), x[train].std()
    x = (x - mean) / std
    return Data(InMemory(x[train], y[train]), InMemory(x[test], y[test]), 10)


def mnist(config: dict, download: bool) -> Data:
    """Returns MNIST, 60,000 + 10,000 digits of 28 x 28 pixels."""
    return _idx("MNIST", config["data_dir"], download, mean=0.1307, std=0.3081)


def fashion_mnist(config: dict, download: bool) -> Data:
    """Returns Fashion-MNIST, 60,000 + 10,000 pieces of clothing of 28 x 28 pixels."""
    return _idx("FashionMNIST", config["data_dir"], download, mean=0.2860, std=0.3530)


def _idx(name: str, folder: str | None, download: bool, mean: float, std: float) -> Data:
    datasets = require("torchvision.datasets")
    root = Path(folder or "data")
    parts = []
    for train in (True, False):
        try:
            part = getattr(datasets, name)(str(root), train=train, download=download)
            if len(part.data) != len(part.targets) or part.data.shape[1:] != (28, 28):
                raise ValueError(f"{tuple(part.data.shape)} images, {len(part.targets)} labels")
            if not len(part.targets) or not 0 <= int(part.targets.min()) <= int(part.targets.max()) < 10:
                raise ValueError("expected labels of 0 to 9")
        except Exception as error:  # torchvision raises whatever the first damaged byte leads to
            if not (root / name / "raw").is_dir():
                raise UsageError(
                    f"no {name} in {root} (looked for {root / name / 'raw'}); "
                    "give its folder with --data-dir or fetch it with --download"
                ) from error
            raise UsageError(
                f"{name} in {root} is incomplete or damaged ({first_line(error)}); "
                f"delete {root / name} and fetch it again with --download"
            ) from error
        x = part.data.float().div_(255).sub_(mean).div_(std).unsqueeze(1)
        parts.append(InMemory(x, part.targets.long()))
    train_set, test_set = parts
    return Data(train_set, test_set, 10)


def csv(config: dict, download: bool) -> Data:
    """Returns the rows of a table: one row a sample, `--target` the class; a seeded 80/20 split."""
    if not config["data_dir"] or not config["target"]:
        raise UsageError("--data csv needs --data-dir FILE and --target COLUMN")
    frame, labels, names = read_csv(Path(config["data_dir"]), config["target"])
    train, test = split(len(labels), config["seed"])
    x = encode(frame, train.numpy())
    held_out = InMemory(x[test], labels[test])
    return Data(InMemory(x[train], labels[train]), held_out, len(names), names=names)

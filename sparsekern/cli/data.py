"""The data sets that `--data` names, held whole as tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import UsageError, choose, require
from .table import encode, read_csv


@dataclass(frozen=True)
class Data:
    """A classification problem: inputs float32 `[n, ...]`, targets int64 `[n]` in `[0, classes)`."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train_x.shape[1:])

    @property
    def facts(self) -> dict:
        """What a checkpoint remembers of its data."""
        return {
            "train": len(self.train_y),
            "test": len(self.test_y),
            "shape": list(self.shape),
            "classes": self.classes,
        }

    def to(self, device: torch.device) -> "Data":
        x, y = self.train_x.to(device), self.train_y.to(device)
        return Data(x, y, self.test_x.to(device), self.test_y.to(device), self.classes)


def split(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of a data set without a test set of its own: 80 % to train on, 20 % to test, drawn by `seed`."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[n // 5 :], order[: n // 5]


def digits(config: dict, download: bool) -> Data:
    """1,797 handwritten digits of 8 x 8 pixels, bundled with scikit-learn; a seeded 80/20 split."""
    bunch = require("sklearn.datasets").load_digits()
    x = torch.from_numpy(bunch.images).float() / 16
    y = torch.from_numpy(bunch.target).long()
    train, test = split(len(y), config["seed"])
    mean, std = x[train].mean(), x[train].std()
    x = (x - mean) / std
    return Data(x[train], y[train], x[test], y[test], 10)


def mnist(config: dict, download: bool) -> Data:
    """MNIST, 60,000 + 10,000 digits of 28 x 28 pixels."""
    return _idx("MNIST", config["data_dir"], download, mean=0.1307, std=0.3081)


def fashion_mnist(config: dict, download: bool) -> Data:
    """Fashion-MNIST, 60,000 + 10,000 pieces of clothing of 28 x 28 pixels."""
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
        except Exception as error:  # torchvision raises whatever the first damaged byte leads to
            if not (root / name / "raw").is_dir():
                raise UsageError(
                    f"no {name} in {root} (looked for {root / name / 'raw'}); "
                    "give its folder with --data-dir or fetch it with --download"
                ) from error
            raise UsageError(
                f"{name} in {root} is incomplete or damaged ({_first_line(error)}); "
                f"delete {root / name} and fetch it again with --download"
            ) from error
        parts += [part.data.float().div_(255).sub_(mean).div_(std), part.targets.long()]
    train_x, train_y, test_x, test_y = parts
    return Data(train_x, train_y, test_x, test_y, 10)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def csv(config: dict, download: bool) -> Data:
    """A table: one row a sample, `--target` the class; a seeded 80/20 split."""
    if not config["data_dir"] or not config["target"]:
        raise UsageError("--data csv needs --data-dir FILE and --target COLUMN")
    frame, labels = read_csv(Path(config["data_dir"]), config["target"])
    train, test = split(len(labels), config["seed"])
    x = encode(frame, train.numpy())
    return Data(x[train], labels[train], x[test], labels[test], int(labels.max()) + 1)


DATA: dict[str, Callable[[dict, bool], Data]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "csv": csv,
}


def load(config: dict, download: bool = False) -> Data:
    """The data of a run; `config` gives `data`, `data_dir`, `target`, `seed`."""
    return DATA[choose("data set", config["data"], list(DATA))](config, download)

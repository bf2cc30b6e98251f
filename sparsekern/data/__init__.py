"""The data sets that `--data` names."""

from collections.abc import Callable
from math import prod

import torch

from ..errors import choose
from .cifar import cifar10, cifar100
from .common import Data
from .folders import imagefolder, tiny_imagenet
from .held import Held
from .plain import csv, digits, fashion_mnist, mnist

DATA: dict[str, Callable[[dict, bool], Data]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "tiny-imagenet": tiny_imagenet,
    "imagefolder": imagefolder,
    "csv": csv,
}

# shape of one input and classes of the sets that are not the user's own
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "digits": ((1, 8, 8), 10),
    "mnist": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "tiny-imagenet": ((3, 64, 64), 200),
    "imagefolder": ((3, 224, 224), 1000),
}

__all__ = ["DATA", "SHAPES", "Data", "Held", "load", "stand_in"]


def load(config: dict, download: bool = False) -> Data:
    """The data of a run; `config` gives `data`, `data_dir`, `target`, `seed`."""
    return DATA[choose("data set", config["data"], list(DATA))](config, download)


def stand_in(name: str, batch: int) -> Data:
    """A batch of noise of the shape of a data set, small if its images are large: for a look without the files."""
    shape, classes = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    samples = max(2, min(batch, 2**20 // prod(shape)))
    x = torch.randn(samples, *shape, generator=generator)
    part = Held(x, torch.randint(classes, (samples,), generator=generator))
    return Data(part, part, classes)

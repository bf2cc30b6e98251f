"""The data sets that `--data` names."""

from collections.abc import Callable
from math import prod

import torch

from ..errors import choose
from ..settings import CONTEXT
from .cifar import cifar10, cifar100
from .folders import imagefolder, tiny_imagenet
from .in_memory import InMemory
from .interface import WHOLE, Data
from .small_sets import csv, digits, fashion_mnist, mnist
from .texts import BYTES, text

DATA: dict[str, Callable[[dict, bool], Data]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "tiny-imagenet": tiny_imagenet,
    "imagefolder": imagefolder,
    "csv": csv,
    "text": text,
}

# shape of one input and classes, where they are known without the files
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "digits": ((1, 8, 8), 10),
    "mnist": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "tiny-imagenet": ((3, 64, 64), 200),
    "imagefolder": ((3, 224, 224), 1000),
    "text": ((CONTEXT,), BYTES),
}

Held = InMemory  # its name before version 0.2

__all__ = ["DATA", "SHAPES", "WHOLE", "Data", "Held", "InMemory", "load", "stand_in"]


def load(config: dict, download: bool = False) -> Data:
    """Returns the data of a run.

    Args:
        config: from `training.configure`, of which `data`, `data_dir`, `target`, `context` and `seed` count.
        download: fetch the data set into `data_dir` if it can be fetched.

    Raises:
        UsageError: there is no such data set, or its files are missing or damaged.
    """
    return DATA[choose("data set", config["data"], list(DATA))](config, download)


def stand_in(config: dict) -> Data:
    """Returns a batch of noise of the shape of a data set, small if its images are large: for a look without files.

    Args:
        config: from `training.configure`, of which `data`, `context` and `batch_size` count.
    """
    tokens = config["data"] == "text"
    shape, classes = SHAPES[config["data"]]
    shape = (config["context"],) if tokens else shape
    generator = torch.Generator().manual_seed(0)
    samples = max(2, min(config["batch_size"], 2**20 // prod(shape)))
    if tokens:
        x, y = torch.randint(classes, (2, samples, *shape), generator=generator)
    else:
        x = torch.randn(samples, *shape, generator=generator)
        y = torch.randint(classes, (samples,), generator=generator)
    part = InMemory(x, y)
    return Data(part, part, classes, tokens)

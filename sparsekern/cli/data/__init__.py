"""The data sets that `--data` names."""

from collections.abc import Callable

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

__all__ = ["DATA", "Data", "Held", "load"]


def load(config: dict, download: bool = False) -> Data:
    """The data of a run; `config` gives `data`, `data_dir`, `target`, `seed`."""
    return DATA[choose("data set", config["data"], list(DATA))](config, download)

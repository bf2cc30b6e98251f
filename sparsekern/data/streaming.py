"""Images too large for the memory: read and augmented anew in every epoch, by processes of their own."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import UsageError, require
from .interface import WHOLE, Data
from .pictures import decode

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Streaming:
    """A `Split` of picture files, `[3, 224, 224]` each, normalised by the statistics of ImageNet.

    To train on: a random part of 8 % to 100 % of the picture, resized, half of them flipped; to test on: the centre of
    the picture resized to 256 (He et al. 2016, section 3.4; Szegedy et al. 2015, section 6).
    """

    paths: list[Path]
    y: Tensor
    augment: bool
    device: torch.device

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, SIZE, SIZE)

    def __len__(self) -> int:
        return len(self.paths)

    def to(self, device: torch.device) -> "Streaming":
        return Streaming(self.paths, self.y, self.augment, device)

    def batches(
        self, rows: Tensor, size: int, generator: torch.Generator, part: slice = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        seeds = torch.randint(2**62, (len(rows),), generator=generator)
        places = [batch[part].tolist() for batch in torch.arange(len(rows)).split(size)]
        loader = DataLoader(
            _Pictures(self.paths, rows, seeds, self.augment),
            batch_sampler=places,
            num_workers=min(8, processors(), -(-len(rows) // size)),
            worker_init_fn=_quiet,
            generator=torch.Generator(),  # torch's own one stays as it is
            pin_memory=self.device.type == "cuda",
        )
        y = self.y.to(self.device)
        batches = iter(loader)
        for batch in rows.to(self.device).split(size):
            try:
                x = next(batches)
            except UsageError as error:  # the loader puts a traceback before what its process said
                raise UsageError(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
            yield x.to(self.device, non_blocking=True), y.index_select(0, batch[part])


def processors() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quiet(worker: int) -> None:
    """Leaves Ctrl-C to the main process, which still wants this batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Pictures(Dataset):
    """The pictures of an epoch in their order, each augmented by a seed of its own: any process gives the same."""

    def __init__(self, paths: list[Path], rows: Tensor, seeds: Tensor, augment: bool) -> None:
        transforms = require("torchvision.transforms.v2")
        if augment:
            steps: list[Any] = [transforms.RandomResizedCrop(SIZE, antialias=True), transforms.RandomHorizontalFlip()]
        else:
            steps = [transforms.Resize(256, antialias=True), transforms.CenterCrop(SIZE)]
        self.transform = transforms.Compose([*steps, transforms.ToDtype(torch.float32, scale=True),
                                             transforms.Normalize(MEAN, STD)])  # fmt: skip
        self.paths, self.rows, self.seeds = paths, rows, seeds

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.seeds[i]))
            return self.transform(decode(self.paths[int(self.rows[i])]))


def streaming(train: tuple[list[Path], list[int]], test: tuple[list[Path], list[int]], classes: int) -> Data:
    """Returns pictures with their classes, to train on and to test on."""
    cpu = torch.device("cpu")
    held_out = Streaming(test[0], torch.tensor(test[1]), False, cpu)
    return Data(Streaming(train[0], torch.tensor(train[1]), True, cpu), held_out, classes)

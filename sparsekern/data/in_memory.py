"""Data that is kept in memory whole, where a batch of 128 augmented CIFAR images takes less than a millisecond."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .interface import WHOLE, Data

PADDING = 4


@dataclass(frozen=True)
class Pixels:
    """Makes a batch of inputs, float32, of a batch of uint8 images `[b, c, h, w]`.

    Attributes:
        mean, std: of the training images, per channel, `[c, 1, 1]`, in units of 0 to 255.
        augment: every image is padded by 4 black pixels, a crop of its size is taken at random, and half of them
            are flipped horizontally (He et al. 2016, section 4.2).
    """

    mean: Tensor
    std: Tensor
    augment: bool

    @classmethod
    def of(cls, images: Tensor) -> "Pixels":
        """Measures training images `[n, c, h, w]` by counting their values: no float copy of all of them is made."""
        level = torch.arange(256, dtype=torch.float64)
        counts = torch.stack([_count(images[:, channel]) for channel in range(images.shape[1])]).double()
        mean = (counts @ level) / counts.sum(1)
        square = (counts @ level.square()) / counts.sum(1)
        std = (square - mean.square()).clamp(min=0).sqrt()
        std = torch.where(std > 0, std, 1.0)
        return cls(mean.float()[:, None, None], std.float()[:, None, None], augment=True)

    def to(self, device: torch.device) -> "Pixels":
        return Pixels(self.mean.to(device), self.std.to(device), self.augment)

    def __call__(self, images: Tensor, generator: torch.Generator, n: int | None = None, part: slice = WHOLE) -> Tensor:
        """Returns the inputs of images that are `part` of a batch of `n`, their own number by default."""
        if self.augment:
            n = len(images) if n is None else n
            top, left = torch.randint(2 * PADDING + 1, (2, n), generator=generator)
            flip = torch.randint(2, (n,), generator=generator).bool()
            images = _crop(images, *(drawn[part].to(images.device) for drawn in (top, left, flip)))
        return images.float().sub_(self.mean).div_(self.std)


def _count(values: Tensor) -> Tensor:
    """Counts how often each of 0 to 255 occurs, int64 `[256]`; in parts that stay in the cache."""
    return torch.stack([part.flatten().bincount(minlength=256) for part in values.split(256)]).sum(0)


def _crop(images: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Pads and crops every image by one gather; `top`, `left`, `flip` are `[n]`."""
    height, width = images.shape[2:]
    images = F.pad(images, (PADDING, PADDING, PADDING, PADDING))
    n, channels, _, stride = images.shape
    column = torch.arange(width, device=images.device)
    column = torch.where(flip[:, None], width - 1 - column, column) + left[:, None]
    row = torch.arange(height, device=images.device) + top[:, None]
    position = (row[:, :, None] * stride + column[:, None, :]).view(n, 1, -1).expand(n, channels, -1)
    return images.flatten(2).gather(2, position).view(n, channels, height, width)


@dataclass(frozen=True)
class InMemory:
    """A `Split` in memory: `x [n, ...]`, float32, or uint8 with `pixels` that make inputs of it; `y [n]`, int64."""

    x: Tensor
    y: Tensor
    pixels: Pixels | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> "InMemory":
        return InMemory(self.x.to(device), self.y.to(device), self.pixels and self.pixels.to(device))

    def batches(
        self, rows: Tensor, size: int, generator: torch.Generator, part: slice = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in rows.to(self.y.device).split(size):
            own = batch[part]
            x = self.x.index_select(0, own)
            yield self.pixels(x, generator, len(batch), part) if self.pixels else x, self.y.index_select(0, own)


def photographs(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, classes: int) -> Data:
    """Returns small colour images, uint8, normalised by the training images and, for training, augmented."""
    pixels = Pixels.of(train_x)
    return Data(InMemory(train_x, train_y, pixels), InMemory(test_x, test_y, replace(pixels, augment=False)), classes)

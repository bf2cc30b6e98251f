"""The interface between a run and its data."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

WHOLE = slice(None)


class Split(Protocol):
    """Samples to train on or to test on."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> "Split": ...

    def batches(
        self, rows: Tensor, size: int, generator: torch.Generator, part: slice = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields `part` of each batch of `size` of the rows `rows`, int64: inputs float32 `[b, *shape]`, targets int64
        `[b]`; or tokens and the ones that follow them, both int64 `[b, *shape]`.

        All that is random in a training input comes from `generator`, which lives on the CPU. Equal states give equal
        batches, on any device, with any number of loading processes, and in whatever parts they are taken.
        """
        ...


@dataclass(frozen=True)
class Data:
    """A classification problem, targets in `[0, classes)`.

    Attributes:
        tokens: whether inputs are sequences of tokens, which are classes, too, each with a target of its own.
        names: of the classes, where the data have them.
    """

    train: Split
    test: Split
    classes: int
    tokens: bool = False
    names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.train.shape

    @property
    def facts(self) -> dict:
        """The facts by which a checkpoint tells its data from other data."""
        return {
            "train": len(self.train),
            "test": len(self.test),
            "shape": list(self.shape),
            "classes": self.classes,
            **({"names": list(self.names)} if self.names else {}),
        }

    def to(self, device: torch.device) -> "Data":
        return replace(self, train=self.train.to(device), test=self.test.to(device))

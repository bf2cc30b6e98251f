"""The batches of a run: those of an epoch, and those that a first pattern is scored on."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..data import WHOLE, Data
from ..sparsity import Method

SCORED = -1  # the epoch, before the first one, of what patterns are scored on


def of_epoch(
    data: Data, config: dict, epoch: int, size: int | None = None, part: slice = WHOLE
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields `part` of each training batch of an epoch: a function of seed and epoch, so that resuming finds them
    again. Of the epoch `SCORED`, and those before it, are the batches that patterns are chosen by."""
    generator, rows = _order(data, config, epoch)
    return data.train.batches(rows, size or config["batch_size"], generator, part)


def scored(data: Data, config: dict, method: Method) -> list[tuple[Tensor, Tensor]]:
    """Returns the batches that a first pattern is scored on, without a row in common; smaller than the paper's if the
    data would not do.

    Raises:
        ValueError: there are more batches than samples.
    """
    start, rows = method.start, len(data.train)
    if start.batches > rows:
        raise ValueError(f"{method.name} scores on {start.batches} batches, but there are {rows} training samples")
    if start.per_class is not None and not data.tokens:
        return _balanced(data, config, start.per_class, start.batches)
    size = start.batch_size
    if size is None or data.tokens:  # papers count images, and a sequence is many samples
        size = config["batch_size"]
    size = min(size, max(1, rows // start.batches))
    return list(islice(of_epoch(data, config, SCORED, size), start.batches))


def _balanced(data: Data, config: dict, per_class: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Returns `count` batches that have, between them, so many samples of each class, or all that there are."""
    train: Any = data.train
    generator, rows = _order(data, config, SCORED)
    targets = train.y.to("cpu")[rows]
    chosen = [rows[targets == label][:per_class] for label in range(data.classes)]
    parts = [torch.cat([own[i::count] for own in chosen]) for i in range(count)]
    if not all(len(part) for part in parts):
        raise ValueError(f"per_class={per_class} is too few for {count} batches")
    return [next(iter(train.batches(part, len(part), generator))) for part in parts]


def _order(data: Data, config: dict, epoch: int) -> tuple[torch.Generator, Tensor]:
    generator = torch.Generator().manual_seed((config["seed"] * 1_000_003 + epoch + 1) % 2**64)
    return generator, torch.randperm(len(data.train), generator=generator)

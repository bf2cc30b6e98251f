"""Times of a step, measured by short trainings that take turns: other work on the machine disturbs all alike."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from sparsekern.bench.report import header, write
from sparsekern.data import WHOLE, Data, load
from sparsekern.data.interface import Split
from sparsekern.training import Run
from sparsekern.training.files import read_json

STEPS = 8  # of an epoch
Kind = tuple[str, str, float | None]  # `Trial.cell`


@dataclass(frozen=True)
class First(Split):
    """The first rows of a split."""

    split: Split
    rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.split.shape

    def __len__(self) -> int:
        return min(self.rows, len(self.split))

    def to(self, device: torch.device) -> "First":
        return First(self.split.to(device), self.rows)

    def batches(
        self, rows: Tensor, size: int, generator: torch.Generator, part: slice = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        return self.split.batches(rows, size, generator, part)


def measure(kinds: dict[Kind, dict], path: Path) -> None:
    """Trains every kind of run, by its configuration, for its epochs of `STEPS` steps, an epoch of one after another's.

    Writes the mean time of a step, changes of pattern included, and that of each epoch.
    """
    data: dict[str, Data] = {}
    runs = []
    for config in kinds.values():
        key = f"{config['data']} {config['data_dir']}"
        if key not in data:
            data[key] = load(config)
        whole = data[key]
        runs.append(Run(config, replace(whole, train=First(whole.train, STEPS * config["batch_size"]))))
    for epoch in range(max(config["epochs"] for config in kinds.values())):
        for run in runs:
            if epoch < run.config["epochs"]:
                run.train_epoch()
        print(f"{epoch + 1} epochs of {len(runs)} trainings", flush=True)
    rows = [
        {"group": group, "what": what, "at": at, "ms": 1e3 * fmean(run.seconds),
         "epochs": [1e3 * seconds for seconds in run.seconds]}
        for (group, what, at), run in zip(kinds, runs, strict=True)
    ]  # fmt: skip
    write(path, {**header(path.parent.name, torch.get_num_threads()), "steps": STEPS, "rows": rows})


def read(path: Path) -> dict[Kind, float]:
    """The measured milliseconds of a step, by group, what and at; none if there is no file."""
    if not path.exists():
        return {}
    return {(row["group"], row["what"], row["at"]): row["ms"] for row in read_json(path)["rows"]}

"""An experiment: its trials, and what is drawn of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.papers.orderings import Claim

Flags = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A training run: `what` is trained, with `at` the number that the experiment varies, in a `group` of its own."""

    group: str
    what: str
    at: float | None
    seed: int
    flags: Flags = field(hash=False)

    @property
    def name(self) -> str:
        """The name of its folder."""
        parts = [self.group, self.what, "" if self.at is None else f"{self.at:g}", f"seed{self.seed}"]
        return "-".join(part for part in parts if part)

    @property
    def cell(self) -> tuple[str, str, float | None]:
        """What its seeds have in common."""
        return self.group, self.what, self.at

    @property
    def measured(self) -> bool:
        """Whether its step is measured: what only trains for longer takes as long."""
        return "epochs" not in self.flags


@dataclass(frozen=True)
class Curves:
    """A number that is drawn over the epochs: `accuracy`, `sparsities` or `change`, of the runs of a group."""

    group: str
    key: str
    title: str
    whats: tuple[str, ...] = ("*",)


@dataclass(frozen=True)
class Experiment:
    """The trials that `python -m benchmarks.papers NAME` trains.

    Attributes:
        source: of the experiment.
        axis: what the number of a run is, by group; empty where it is not worth a picture.
        data: by default.
        common: flags of every run.
        runs: the runs of a seed.
        seeds: by default.
        notes: what differs from the paper, and what it published.
        curves: what is drawn over the epochs.
        claims: orderings of the methods that papers found. With them the table ranks the methods of a sparsity.
        samples: of the test set.
        data_dir: by default.
        tables: Markdown lines of the runs, in place of tables of accuracies.
        draw: draws them into a folder, in place of pictures of accuracies.
    """

    source: str
    axis: dict[str, str]
    data: str
    common: Flags
    runs: Callable[[int], Iterable[Trial]]
    seeds: Sequence[int]
    notes: str
    curves: tuple[Curves, ...] = ()
    claims: tuple[Claim, ...] = ()
    samples: int = 10_000
    data_dir: str | None = None
    tables: Callable[[list[dict]], list[str]] | None = None
    draw: Callable[[Path, list[dict]], object] | None = None

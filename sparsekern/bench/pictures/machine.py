"""Machines as pictures show them: each has a colour and a marker, so that print without colours tells them apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import UsageError
from ...training.figures import COLOURS, INK
from .. import machines
from ..analysis import Row

MARKS = tuple(zip(COLOURS, "osD^vP*Xph", strict=True))
COLUMNS = 3  # of small multiples


class Machine(NamedTuple):
    """The results of a machine and its look."""

    title: str
    reports: dict[str, machines.Report]
    colour: str
    marker: str

    def rows(self, benchmark: str) -> list[Row]:
        """Returns the rows of a benchmark, none if it was not run."""
        return self.reports[benchmark]["rows"] if benchmark in self.reports else []


def load(folders: Sequence[Path]) -> list[Machine]:
    """Reads the results of machines, each in a folder of its own.

    Raises:
        UsageError: a folder holds no results, or there are too many.
    """
    if len(folders) > len(MARKS):
        raise UsageError(f"expected {len(MARKS)} folders at most, got {len(folders)}")
    found = []
    for folder, (colour, marker) in zip(folders, MARKS, strict=False):
        reports = machines.read(folder)
        found.append(Machine(machines.title(folder, next(iter(reports.values()))), reports, colour, marker))
    return found


def head(drawing: Any, text: str, handles: Iterable[Any] = ()) -> None:
    """Writes what a figure shows above it, and a legend below."""
    drawing.suptitle(text, fontsize=12, color=INK, x=0.01, ha="left")
    if handles := list(handles):
        drawing.legend(handles=handles, loc="outside lower left", ncols=min(5, len(handles)), frameon=False, fontsize=9)


def hide_unused(axes: Sequence[Any], used: int) -> None:
    for axis in axes[used:]:
        axis.set_visible(False)

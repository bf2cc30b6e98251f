"""Tables of the densities from which on another kernel is faster, and which of them is in use here.

`tables/` has a table of every family of processors that was measured. One that `sparsekern calibrate` measured on this
machine, in the user's cache directory, goes before them.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from . import processor
from .processor import Processor

SHAPES = {
    "linear": ("rows", "cols", "batch"),
    "convolutions": ("out", "in", "kernel", "stride", "size", "batch"),
}
KERNELS = {"linear": ("csr", "tiled", "dense"), "convolutions": ("csr", "dense")}


@dataclass(frozen=True)
class Table:
    """The crossovers that were measured on one processor.

    Attributes:
        name: of the family, or the path of the file.
        calibrated: whether it was measured on this machine.
        processor: where it was measured.
        linear, convolutions: a row for every layer: its shape (`SHAPES`), `dtype`, and `above`. That names the kernels,
            from the one for the lowest densities to the one for the highest, each with the density above which it takes
            less time than all before it; 1 if it never does.
    """

    name: str
    calibrated: bool
    processor: Processor
    linear: list[dict[str, Any]]
    convolutions: list[dict[str, Any]]

    def rows(self, kind: str, dtype: str) -> list[dict[str, Any]]:
        """Returns the rows of "linear" layers or "convolutions" in a dtype."""
        return [row for row in getattr(self, kind) if row["dtype"] == dtype]

    @property
    def origin(self) -> str:
        """Says where the table comes from."""
        if self.calibrated:
            return f"measured on this machine ({self.name})"
        if self.processor.family == processor.here().family:
            return f"measured on a processor of this family ({self.name})"
        return f"measured on the nearest of other processors ({self.name}); `sparsekern calibrate` measures this one"


def rows(kind: str, dtype: str) -> list[dict[str, Any]]:
    """Returns the rows by which layers of this kind and dtype choose here: those of this machine or of the nearest
    family, in fp32 if no table has others."""
    return _rows(kind, dtype, torch.get_num_threads())


def table(dtype: str = "float32") -> Table:
    """Returns the table by which linear layers choose here."""
    return next(_having("linear", dtype, torch.get_num_threads()))


@cache
def _rows(kind: str, dtype: str, threads: int) -> list[dict[str, Any]]:
    found = next(_having(kind, dtype, threads))
    return found.rows(kind, dtype) or found.rows(kind, "float32")


def _having(kind: str, dtype: str, threads: int) -> Any:
    """Yields the tables that have rows of this kind, the best first: of this dtype or, behind them, of fp32. Rows of
    bf16 count only from processors that, like this one, have or lack bf16 arithmetic: without it dense layers are slow,
    and sparse ones win earlier."""
    own, here = calibrated(threads), processor.here()
    ordered = ([own] if own else []) + sorted(families().values(), key=lambda t: here.distance(t.processor, dtype))
    alike = [t for t in ordered if (t.processor.bf16 == "fp32") == (here.bf16 == "fp32")]
    yield from (table for table in (alike if dtype == "bfloat16" else ordered) if table.rows(kind, dtype))
    yield from (table for table in ordered if table.rows(kind, "float32"))


@cache
def families() -> dict[str, Table]:
    """Returns the committed tables by name of the family."""
    folder = resources.files("sparsekern.nn").joinpath("tables")
    texts = {file.name: file.read_text() for file in folder.iterdir()}
    names = {file: file.removesuffix(".json") for file in sorted(texts) if file.endswith(".json")}
    return {name: parsed(json.loads(texts[file]), name) for file, name in names.items()}


def parsed(report: dict[str, Any], name: str, calibrated: bool = False) -> Table:
    """Makes a table of a report of `bench.calibrate`.

    Raises:
        ValueError: it is not such a report.
    """
    try:
        for kind, shape in SHAPES.items():
            for row in report[kind]:
                _check(row, shape, KERNELS[kind])
            if not any(row["dtype"] == "float32" for row in report[kind]):
                raise ValueError(f"it has no row of {kind} in float32")
        return Table(name, calibrated, Processor(**report["processor"]), report["linear"], report["convolutions"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a table of crossovers: {error!r}") from error


def _check(row: dict[str, Any], shape: tuple[str, ...], kernels: tuple[str, ...]) -> None:
    if not all(type(row[name]) is int and row[name] > 0 for name in shape) or type(row["dtype"]) is not str:
        raise ValueError(f"expected positive {', '.join(shape)} and a dtype, got {row}")
    first = next(iter(row["above"].items()), None)
    if first != ("csr", 0) or not all(0 <= density <= 1 for density in row["above"].values()):
        raise ValueError(f"expected csr from density 0 on, and densities up to 1, got {row['above']}")
    if unknown := row["above"].keys() - set(kernels):
        raise ValueError(f"expected the kernels {', '.join(kernels)}, got {', '.join(sorted(unknown))}")


# ---- the table of this machine


def cache_folder() -> Path:
    """Returns the folder of this package in the user's cache directory, or the environment's SPARSEKERN_CACHE."""
    if given := os.environ.get("SPARSEKERN_CACHE"):
        return Path(given)
    if said := os.environ.get({"darwin": "", "win32": "LOCALAPPDATA"}.get(sys.platform, "XDG_CACHE_HOME")):
        return Path(said) / "sparsekern"
    home = Path(os.path.expanduser("~"))
    if not home.is_absolute():  # a user without a home, as in containers
        return Path(tempfile.gettempdir()) / f"sparsekern-{getattr(os, 'getuid', int)()}"
    usual = {"darwin": home / "Library" / "Caches", "win32": home / "AppData" / "Local"}
    return usual.get(sys.platform, home / ".cache") / "sparsekern"


def cache_file(threads: int) -> Path:
    """Returns where the table of this processor with so many threads is kept."""
    here = processor.here()
    name = re.sub(r"[^a-z0-9]+", "-", here.name.lower()).strip("-")
    return cache_folder() / f"crossovers-{name}-{here.isa}-{threads}t.json"


@cache
def calibrated(threads: int) -> Table | None:
    """Returns the table that was measured here with so many threads; None, with a warning, if it is damaged, or of
    another processor or version."""
    path = cache_file(threads)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return _current(report, parsed(report, str(path), calibrated=True))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        warnings.warn(f"{path} is ignored: {error}. Measure again by `sparsekern calibrate`", stacklevel=2)
        return None


def _current(report: dict[str, Any], table: Table) -> Table:
    from .. import __version__

    if report.get("sparsekern") != __version__:
        raise ValueError(f"it is of version {report.get('sparsekern')}, this is {__version__}")
    if asdict(table.processor) != asdict(processor.here()):
        raise ValueError(f"it is of another processor: {table.processor}")
    return table


def clear_cache() -> None:
    """Forgets what was read: a file has changed."""
    calibrated.cache_clear()
    _rows.cache_clear()

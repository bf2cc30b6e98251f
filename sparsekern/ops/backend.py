"""Loads the compiled kernels, if they were built, and chooses among them."""

import importlib
import json
import os
import warnings
from functools import cache
from importlib import resources
from types import ModuleType
from typing import NamedTuple

KERNELS = ("csr", "tiled", "dense", "masked")
BACKENDS = ("auto", "sparse", "masked", "dense")


def _load() -> ModuleType | None:
    try:
        return importlib.import_module("sparsekern._C")
    except ImportError as error:
        if os.environ.get("SPARSEKERN_CPP") != "0":
            warnings.warn(f"sparsekern runs on plain PyTorch, without compiled kernels ({error})", stacklevel=2)
        return None


extension = _load()


class Choice(NamedTuple):
    """A kernel of `KERNELS` and why it was chosen."""

    kernel: str
    reason: str


@cache
def _crossovers() -> list[dict]:
    return json.loads(resources.files("sparsekern.ops").joinpath("crossovers.json").read_text())["rows"]


def choose(rows: int, cols: int, density: float, *, batch: int = 128, backend: str = "auto") -> Choice:
    """The kernel of a `rows x cols` linear layer with the given fraction of nonzeros.

    A pure function of its arguments and the committed table of measured crossovers (its nearest row counts); never
    of the machine's momentary speed.

    Raises:
        ValueError: `backend` is not one of `BACKENDS`.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "masked":
        return Choice("masked", "asked for: dense products with a masked weight")
    if backend == "dense":
        return Choice("dense", "asked for: dense products with the expanded weight")
    row = min(_crossovers(), key=lambda r: _distance(r["rows"] * r["cols"], rows * cols) + _distance(r["batch"], batch))
    dense_above, tiled_above = row["dense_above"], row["tiled_above"]
    oversized = rows * cols * 4 > 256 << 20
    if backend == "auto" and density > max(dense_above, 0.05) and not oversized:
        return Choice("dense", f"density {density:.3g} is above {dense_above:.3g}, where dense products are faster")
    if density > tiled_above:
        return Choice("tiled", f"density {density:.3g} is above {tiled_above:.3g}, where L1 blocking pays")
    return Choice("csr", f"density {density:.3g} is at most {tiled_above:.3g}: row by row")


def _distance(a: float, b: float) -> float:
    return max(a, b) / max(1, min(a, b))

"""Loads the compiled kernels, if they were built, and chooses among them."""

import importlib
import importlib.util
import json
import os
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import resources
from math import prod
from types import ModuleType
from typing import NamedTuple

import torch

KERNELS = ("csr", "tiled", "bits", "dense", "masked")
BACKENDS = ("auto", "sparse", "masked", "dense")
NEVER_DENSE = 0.05  # density up to which a weight is not expanded, whatever was measured
FEW_CHANNELS = 4


def _load() -> ModuleType | None:
    try:
        return importlib.import_module("sparsekern._C")
    except ImportError as error:
        if os.environ.get("SPARSEKERN_CPP") != "0":
            warnings.warn(f"sparsekern runs on plain PyTorch, without compiled kernels ({error})", stacklevel=2)
        return None


def _load_cuda() -> ModuleType | None:
    """The CUDA C++ kernels, which register themselves; none where PyTorch knows no CUDA."""
    try:
        return importlib.import_module("sparsekern._CUDA")
    except ImportError as error:
        if torch.version.cuda is not None and importlib.util.find_spec("sparsekern._CUDA") is not None:
            warnings.warn(f"sparsekern runs without its CUDA C++ kernels ({error})", stacklevel=2)
        return None


extension = _load()
cuda_extension = _load_cuda() if extension is not None else None
if extension is not None:
    vars(extension)["cuda"] = cuda_extension is not None


class Choice(NamedTuple):
    """A kernel of `KERNELS` and why it was chosen."""

    kernel: str
    reason: str


@cache
def _crossovers() -> dict[str, list[dict]]:
    return json.loads(resources.files("sparsekern.ops").joinpath("crossovers.json").read_text())


@cache
def _cards() -> dict[str, dict[str, float]]:
    """By card and kind of layer, the density up to which the kernels that decode bits are faster than the rest."""
    return json.loads(resources.files("sparsekern.ops").joinpath("cards.json").read_text())


def choose(
    rows: int, cols: int, density: float, *, batch: int = 128, backend: str = "auto", card: str | None = None
) -> Choice:
    """The kernel of a `rows x cols` linear layer with the given fraction of nonzeros.

    A pure function of its arguments and the committed table of measured crossovers (its nearest row counts); never
    of the machine's momentary speed.

    Args:
        card: name of the GPU that the layer is on, `card_of(device)`; None for the CPU.

    Raises:
        ValueError: `backend` is not one of `BACKENDS`.
    """
    if (forced := _forced(backend)) is not None:
        return forced
    if card is not None:
        return _on_card(card, "linear", density, backend)
    row = min(
        _crossovers()["rows"],
        key=lambda r: _distance(r["rows"] * r["cols"], rows * cols) + _distance(r["batch"], batch),
    )
    dense_above, tiled_above = row["dense_above"], row["tiled_above"]
    if backend == "auto" and density > max(dense_above, NEVER_DENSE) and not _oversized(rows * cols):
        return Choice("dense", f"density {density:.3g} is above {dense_above:.3g}, where dense products are faster")
    if density > tiled_above:
        return Choice("tiled", f"density {density:.3g} is above {tiled_above:.3g}, where L1 blocking pays")
    return Choice("csr", f"density {density:.3g} is at most {tiled_above:.3g}: row by row")


def choose_conv(
    out: int,
    channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    density: float,
    *,
    groups: int = 1,
    size: int | None = None,
    batch: int | None = None,
    backend: str = "auto",
    card: str | None = None,
) -> Choice:
    """The kernel of a convolution with the given fraction of nonzeros, by the same rules as `choose`.

    Args:
        channels: input channels of a group.
        size, batch: height and number of the inputs, if known.
    """
    if (forced := _forced(backend)) is not None:
        return forced
    if card is not None:
        return _on_card(card, "convolutions", density, backend)
    if backend == "sparse":
        return Choice("csr", "asked for: products with the nonzeros only")
    if groups > 1 and channels <= FEW_CHANNELS:
        return Choice(
            "csr", f"{channels} input channel(s) per group: dense products are slow there, whatever the density"
        )
    area, step = prod(kernel_size), prod(stride)

    def distance(row: dict) -> float:
        known = [(row["size"], size), (row["batch"], batch)]
        return (
            _distance(row["out"], out)
            + _distance(row["in"], channels)
            + 4 * _distance(row["kernel"] ** 2, area)
            + 4 * _distance(row["stride"] ** 2, step)
            + sum(_distance(measured, given) for measured, given in known if given is not None)
        )

    row = min(_crossovers()["convolutions"], key=distance)
    above = row["dense_above"]
    nearest = f"{row['in']}->{row['out']}, {row['kernel']}x{row['kernel']}, stride {row['stride']}"
    if density > max(above, NEVER_DENSE) and not _oversized(out * channels * area):
        return Choice("dense", f"density {density:.3g} is above {above:.3g}, where dense is faster at {nearest}")
    if above >= 1:
        return Choice("csr", f"faster than dense products at any density, measured at {nearest}")
    return Choice("csr", f"density {density:.3g} is at most {above:.3g}, the break-even of {nearest}")


def card_of(device: torch.device) -> str | None:
    """What `choose` is told of a device: None for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def _on_card(card: str, kind: str, density: float, backend: str) -> Choice:
    """On a GPU dense products with the expanded weight are the floor: no other kernel is taken that was not measured to
    be faster on that card."""
    if backend == "sparse":
        return Choice("bits", "asked for: kernels that decode the pattern while they multiply")
    above = _cards().get(card, {}).get(kind)
    if above is None:
        return Choice("dense", f"the expanded weight: no other kernel was measured on {card}")
    if density > above:
        return Choice("dense", f"density {density:.3g} is above {above:.3g}, where dense products are faster")
    return Choice("bits", f"density {density:.3g} is at most {above:.3g}, the break-even on {card}")


def _forced(backend: str) -> Choice | None:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "masked":
        return Choice("masked", "asked for: dense products with a masked weight")
    if backend == "dense":
        return Choice("dense", "asked for: dense products with the expanded weight")
    return None


def _oversized(weights: int) -> bool:
    return weights * 4 > 256 << 20


def _distance(a: float, b: float) -> float:
    return max(a, b) / max(1, min(a, b))

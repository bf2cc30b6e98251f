"""Chooses the kernel of a layer by committed tables of what was measured, never by the machine's momentary speed."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from math import prod
from typing import NamedTuple

import torch

KERNELS = ("csr", "tiled", "bits", "dense", "masked")
BACKENDS = ("auto", "sparse", "masked", "dense")
NEVER_DENSE = 0.05  # density up to which a weight is not expanded on the CPU, whatever was measured
FEW_CHANNELS = 4


class Choice(NamedTuple):
    """A kernel of `KERNELS` and why it was chosen."""

    kernel: str
    reason: str


@cache
def _crossovers() -> dict[str, list[dict]]:
    return _table("crossovers.json")


@cache
def cards() -> dict[str, dict[str, list[dict]]]:
    """Returns what was measured on GPUs, by name of the card: of "linear" layers (rows, cols, batch) and "convolutions"
    (out, in, kernel, stride, size, batch) the density up to which kernels that decode bits are faster than the product
    with the expanded weight, 0 where they never are. `bits_below` is that of a layer that holds its nonzeros,
    `masked_below` of one that masks a dense weight. `python -m benchmarks.cards` writes it."""
    return _table("cards.json")


def _table(name: str) -> dict:
    return json.loads(resources.files("sparsekern.nn").joinpath(name).read_text())


def choose(
    rows: int,
    cols: int,
    density: float,
    *,
    batch: int = 128,
    backend: str = "auto",
    card: str | None = None,
    master: bool = False,
) -> Choice:
    """Chooses the kernel of a `rows x cols` linear layer with the given fraction of nonzeros.

    A pure function of its arguments and of the row of the table that is nearest to them.

    Args:
        card: name of the GPU that the layer is on, `card_of(device)`; None for the CPU.
        master: whether the layer masks a dense weight instead of holding its nonzeros.

    Raises:
        ValueError: `backend` is not one of `BACKENDS`.
    """
    if (forced := _forced(backend)) is not None:
        return forced

    def distance(row: dict) -> float:
        return _distance(row["rows"] * row["cols"], rows * cols) + _distance(row["batch"], batch)

    if card is not None:
        return _on_card(card, "linear", distance, density, backend, master)
    row = min(_crossovers()["rows"], key=distance)
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
    master: bool = False,
) -> Choice:
    """Chooses the kernel of a convolution with the given fraction of nonzeros, by the same rules as `choose`.

    Args:
        channels: input channels of a group.
        size, batch: height and number of the inputs, if known.
    """
    if (forced := _forced(backend)) is not None:
        return forced
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

    if card is not None:
        if groups > 1 and backend == "auto":
            return Choice("dense", "the expanded weight: no other kernel was measured with groups")
        return _on_card(card, "convolutions", distance, density, backend, master)
    if backend == "sparse":
        return Choice("csr", "asked for: products with the nonzeros only")
    if groups > 1 and channels <= FEW_CHANNELS:
        return Choice(
            "csr", f"{channels} input channel(s) per group: dense products are slow there, whatever the density"
        )
    row = min(_crossovers()["convolutions"], key=distance)
    above, nearest = row["dense_above"], _shape(row)
    if density > max(above, NEVER_DENSE) and not _oversized(out * channels * area):
        return Choice("dense", f"density {density:.3g} is above {above:.3g}, where dense is faster at {nearest}")
    if above >= 1:
        return Choice("csr", f"faster than dense products at any density, measured at {nearest}")
    return Choice("csr", f"density {density:.3g} is at most {above:.3g}, the break-even of {nearest}")


def card_of(device: torch.device) -> str | None:
    """Returns the name by which `choose` knows a device: None for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def _on_card(
    card: str, kind: str, distance: Callable[[dict], float], density: float, backend: str, master: bool
) -> Choice:
    """On a GPU dense products with the expanded weight are the floor: no other kernel is taken that was not measured to
    be faster on that card."""
    if backend == "sparse":
        return Choice("bits", "asked for: kernels that decode the pattern while they multiply")
    measured = cards().get(card, {}).get(kind)
    if not measured:
        return Choice("dense", f"the expanded weight: no other kernel was measured on {card}")
    row = min(measured, key=distance)
    # A masked layer whose entries are transformed first is multiplied as if it held nonzeros.
    below = min(row["bits_below"], row["masked_below"]) if master else row["bits_below"]
    nearest = f"{_shape(row)}, batch {row['batch']}, on {card}"
    if below == 0:
        return Choice("dense", f"the expanded weight is faster at every density measured at {nearest}")
    if density <= below:
        return Choice("bits", f"density {density:.3g} is at most {below:.3g}, up to which bits are faster at {nearest}")
    return Choice("dense", f"density {density:.3g} is above {below:.3g}, up to which bits are faster at {nearest}")


def _shape(row: dict) -> str:
    if "rows" in row:
        return f"{row['cols']}->{row['rows']}"
    return f"{row['in']}->{row['out']}, {row['kernel']}x{row['kernel']}, stride {row['stride']}"


def check_backend(backend: str) -> None:
    """Raises a `ValueError` if `backend` is not one of `BACKENDS`."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


def _forced(backend: str) -> Choice | None:
    check_backend(backend)
    if backend == "masked":
        return Choice("masked", "asked for: dense products with a masked weight")
    if backend == "dense":
        return Choice("dense", "asked for: dense products with the expanded weight")
    return None


def _oversized(weights: int) -> bool:
    return weights * 4 > 256 << 20


def _distance(a: float, b: float) -> float:
    return max(a, b) / max(1, min(a, b))

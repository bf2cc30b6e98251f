"""Chooses the kernel of a layer by tables of what was measured, never by the machine's momentary speed."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from math import prod
from typing import NamedTuple

import torch

from ..ops.narrow_pattern import NARROWEST
from . import crossovers

KERNELS = ("csr", "tiled", "bits", "dense", "masked")
NONZEROS_ONLY = ("csr", "tiled")  # of those for the CPU
BACKENDS = ("auto", "sparse", "masked", "dense")
NEVER_EXPANDED = 0.05  # density up to which the CPU does not expand a convolution's weight, whatever was measured
FEW_CHANNELS = 4
# Of linear layers: bytes of the index for each nonzero, at most, and the density up to which tiles are nearly empty, so
# that their index outgrows that of rows and columns; of these and of wider layers.
INDEX_BYTES = {True: {"csr": 5.1, "tiled": 4.6}, False: {"csr": 12, "tiled": 4.6}}
NEVER_TILED = {True: 0.006, False: 0.002}


class Choice(NamedTuple):
    """A kernel of `KERNELS` and why it was chosen."""

    kernel: str
    reason: str


class Threshold(NamedTuple):
    """A kernel, the density above which it is taken, and why; `{density}` stands for that of the layer."""

    above: float
    kernel: str
    why: str


WHOLE = Threshold(  # on the CPU
    1 - 2**-53, "dense", "no weight is absent: dense products with the values as they are"
)


class KernelPlan(NamedTuple):
    """The kernels of a layer for all densities: what a table says of its shape. A layer keeps it when the pattern
    changes, and a checkpoint holds it, so that a table that changes changes no run that has begun.

    Attributes:
        card: the name of the GPU that it is for, None for the CPU.
        thresholds: in the order of their densities; the first goes from 0 on.
    """

    card: str | None
    thresholds: tuple[Threshold, ...]

    def at(self, density: float) -> Choice:
        """Chooses the kernel for a pattern with this fraction of nonzeros."""
        below = [each for each in self.thresholds if each.above < density]
        _, kernel, why = below[-1] if below else self.thresholds[0]
        return Choice(kernel, why.replace("{density}", f"{density:.3g}"))


Plan, Step = KernelPlan, Threshold  # the names in older pickles


@cache
def cards() -> dict[str, dict[str, list[dict]]]:
    """Returns what was measured on GPUs, by name of the card: of "linear" layers (rows, cols, batch) and "convolutions"
    (out, in, kernel, stride, size, batch) the density up to which kernels that decode bits are faster than the product
    with the expanded weight, 0 where they never are. `bits_below` is that of a layer that holds its nonzeros,
    `masked_below` of one that masks a dense weight. `python -m benchmarks.cards` writes it."""
    return json.loads(resources.files("sparsekern.nn").joinpath("cards.json").read_text())


def linear_plan(
    rows: int,
    cols: int,
    *,
    batch: int = 128,
    dtype: torch.dtype = torch.float32,
    backend: str = "auto",
    card: str | None = None,
    master: bool = False,
) -> KernelPlan:
    """Returns the kernels of a `rows x cols` linear layer, by the row of the table that is nearest to it.

    Args:
        dtype: what the layer computes in.
        card: name of the GPU that the layer is on, `card_of(device)`; None for the CPU, see `crossovers.table`.
        master: whether the layer masks a dense weight instead of holding its nonzeros.

    Raises:
        ValueError: `backend` is not one of `BACKENDS`.
    """
    if (forced := _forced(backend, card)) is not None:
        return forced

    def distance(row: dict) -> float:
        return _distance(row["rows"] * row["cols"], rows * cols) + _distance(row["batch"], batch)

    if card is not None:
        return _on_card(card, "linear", distance, backend, master)
    narrow = max(rows, cols) <= NARROWEST
    return _on_cpu("linear", distance, dtype, backend, rows * cols, INDEX_BYTES[narrow], NEVER_TILED[narrow])


def conv_plan(
    out: int,
    channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    *,
    groups: int = 1,
    size: int | None = None,
    batch: int | None = None,
    dtype: torch.dtype = torch.float32,
    backend: str = "auto",
    card: str | None = None,
    master: bool = False,
) -> KernelPlan:
    """Returns the kernels of a convolution, by the same rules as `linear_plan`.

    Args:
        channels: input channels of a group.
        size, batch: height and number of the inputs, if known.
    """
    if (forced := _forced(backend, card)) is not None:
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
            return _only("dense", "the expanded weight: no other kernel was measured with groups", card)
        return _on_card(card, "convolutions", distance, backend, master)
    if groups > 1 and channels <= FEW_CHANNELS and backend == "auto":
        return _only(
            "csr", f"{channels} input channel(s) per group: dense products are slow there, whatever the density"
        )
    return _on_cpu("convolutions", distance, dtype, backend, out * channels * area)


def card_of(device: torch.device) -> str | None:
    """Returns the name by which tables and plans know a device: None for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def _on_cpu(
    kind: str,
    distance: Callable[[dict], float],
    dtype: torch.dtype,
    backend: str,
    weights: int,
    index_bytes: dict[str, float] | None = None,
    never_tiled: float = 0.0,
) -> KernelPlan:
    """Takes, of the kernels of the nearest row, the last one whose density is exceeded."""
    row = min(crossovers.rows(kind, str(dtype).removeprefix("torch.")), key=distance)
    above = dict(row["above"])
    if kind == "convolutions" and "dense" in above:  # as a whole; linear layers expand theirs piece by piece
        above["dense"] = 1.0 if _oversized(weights) else max(above["dense"], NEVER_EXPANDED)
    if "tiled" in above:
        above["tiled"] = max(above["tiled"], never_tiled)
    smaller = _smaller(above, dtype.itemsize, index_bytes or {}) if backend == "auto" else {}
    above |= smaller
    if backend == "sparse":
        above = {kernel: density for kernel, density in above.items() if kernel in NONZEROS_ONLY}
    taken: list[tuple[float, str]] = []
    for kernel, density in reversed(above.items()):
        if density < (taken[0][0] if taken else 1.0):
            taken.insert(0, (density, kernel))
    (_, first), shape = taken[0], shape_of(row)
    whole = () if backend == "sparse" or taken[-1][1] == "dense" else (WHOLE,)
    if len(taken) == 1:
        asked = "asked for: products with the nonzeros only" if backend == "sparse" else ""
        why = asked or f"fastest at every density measured at {shape}"
        return KernelPlan(None, (Threshold(0.0, first, why), *whole))
    until = "takes less memory than dense" if taken[1][1] in smaller else "is fastest"
    why = f"density {{density}} is at most {taken[1][0]:.3g}, up to which {first} {until} at {shape}"
    thresholds = [Threshold(0.0, first, why)]
    for density, kernel in taken[1:]:
        why = f"where {kernel} " + ("takes less memory" if kernel in smaller else "is fastest")
        thresholds.append(Threshold(density, kernel, f"density {{density}} is above {density:.3g}, {why} at {shape}"))
    return KernelPlan(None, (*thresholds, *whole))


def _smaller(above: dict[str, float], itemsize: int, index_bytes: dict[str, float]) -> dict[str, float]:
    """Returns the kernels that are taken from a lower density on than they are faster from, since values and index of
    the kernel before would take more memory there than a dense weight, row pointers aside."""
    bounds = {
        after: itemsize / (itemsize + index_bytes[before]) for before, after in pairwise(above) if before in index_bytes
    }
    return {kernel: bound for kernel, bound in bounds.items() if bound < above[kernel]}


def _on_card(card: str, kind: str, distance: Callable[[dict], float], backend: str, master: bool) -> KernelPlan:
    """On a GPU dense products with the expanded weight are the floor: no other kernel is taken that was not measured to
    be faster on that card."""
    if backend == "sparse":
        return _only("bits", "asked for: kernels that decode the pattern while they multiply", card)
    measured = cards().get(card, {}).get(kind)
    if not measured:
        return _only("dense", f"the expanded weight: no other kernel was measured on {card}", card)
    row = min(measured, key=distance)
    # A masked layer whose entries are transformed first is multiplied as if it held nonzeros.
    below = min(row["bits_below"], row["masked_below"]) if master else row["bits_below"]
    nearest = f"{shape_of(row)}, on {card}"
    if below == 0:
        return _only("dense", f"the expanded weight is faster at every density measured at {nearest}", card)
    limit = f"{below:.3g}, up to which bits are faster at {nearest}"
    bits = Threshold(0.0, "bits", f"density {{density}} is at most {limit}")
    return KernelPlan(card, (bits, Threshold(below, "dense", f"density {{density}} is above {limit}")))


def shape_of(row: dict) -> str:
    """Names the layer of a row of a table."""
    if "rows" in row:
        return f"{row['cols']}->{row['rows']}, batch {row['batch']}"
    shape = f"{row['in']}->{row['out']}, {row['kernel']}x{row['kernel']}, stride {row['stride']}"
    return f"{shape}, batch {row['batch']}"


def check_backend(backend: str) -> None:
    """Raises a `ValueError` if `backend` is not one of `BACKENDS`."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


def _forced(backend: str, card: str | None) -> KernelPlan | None:
    check_backend(backend)
    if backend == "masked":
        return _only("masked", "asked for: dense products with a masked weight", card)
    if backend == "dense":
        return _only("dense", "asked for: dense products with the expanded weight", card)
    return None


def _only(kernel: str, why: str, card: str | None = None) -> KernelPlan:
    return KernelPlan(card, (Threshold(0.0, kernel, why),))


def _oversized(weights: int) -> bool:
    return weights * 4 > 256 << 20


def _distance(a: float, b: float) -> float:
    return max(a, b) / max(1, min(a, b))

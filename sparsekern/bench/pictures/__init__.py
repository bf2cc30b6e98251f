"""`sparsekern bench report`: pictures of the results of any number of machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...training.figures import save
from . import break_evens, growth, memory, ratios, steps
from .machine import Machine, load

# Each returns a figure, None if no machine has what it shows.
PICTURES: dict[str, Callable[[Sequence[Machine]], Any]] = {
    "linear": ratios.linear,
    "convolutions": ratios.convolutions,
    "crossovers": break_evens.draw,
    "steps": steps.draw,
    "memory": memory.draw,
    "scaling": growth.draw,
}


def draw(folders: Sequence[Path], out: Path) -> list[Path]:
    """Draws what the results of machines hold; each picture is a file in the folder `out`, which exists.

    Args:
        folders: each of one machine, with files of `sparsekern bench ... --json`.

    Raises:
        UsageError: a folder holds no results, there are too many, or of none of the results is there a picture.
    """
    machines = load(folders)
    drawn = {name: picture(machines) for name, picture in PICTURES.items()}
    paths = [save(figure, out / f"{name}.png") for name, figure in drawn.items() if figure is not None]
    if not paths:
        raise UsageError(f"there is no picture of what lies in {', '.join(str(folder) for folder in folders)}")
    return paths

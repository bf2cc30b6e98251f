"""The list of methods by canonical name, and what their constructors share."""

import difflib
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ..method import Method
from ..parts.schedules import Cadence

Make = TypeVar("Make", bound=Callable[..., Method])


@dataclass(frozen=True)
class Entry:
    """What `sparsekern methods` prints of a method; `gradient` is the gradient by the weights that it needs."""

    title: str
    paper: str | None
    year: int | None
    storage: str
    changes: str
    gradient: str
    needs_batches: bool = False


_makers: dict[str, Callable[..., Method]] = {}
_entries: dict[str, Entry] = {}


def listed(entry: Entry) -> Callable[[Make], Make]:
    """Puts a constructor on the list under its own name."""

    def register(make: Make) -> Make:
        _makers[make.__name__], _entries[make.__name__] = make, entry
        return make

    return register


def names() -> list[str]:
    """The canonical names."""
    return list(_makers)


def get(name: str) -> Callable[..., Method]:
    """The constructor of a method by its canonical name.

    Raises:
        ValueError: no method has that name; the message lists the nearest.
    """
    if name not in _makers:
        near = difflib.get_close_matches(name, _makers, n=3, cutoff=0.4) or names()
        raise ValueError(f"unknown method {name!r}; did you mean {', '.join(near)}?")
    return _makers[name]


def describe(name: str) -> dict[str, Any]:
    """Name, title, paper, year, storage, when the pattern changes, the gradient it needs, and whether `sparsify` needs
    data for it."""
    get(name)
    return {"name": name, **asdict(_entries[name])}


def cadence(
    name: str, total_steps: int | None, every: int | None, period: int, stop: float, changes: int, shortest: int = 1
) -> tuple[Cadence, tuple[str, ...]]:
    """Multiples of the paper's period up to `stop`; a run too short for the paper's number of changes has a shorter
    period, so that the number is the paper's, but never below `shortest`."""
    steps = steps_of(name, total_steps)
    chosen = every if every is not None else min(period, max(shortest, int(stop // changes)))
    notes = ()
    if every is None and chosen != period:
        notes = (f"{name}: a change every {chosen} steps instead of {period}, for the paper's {changes} changes",)
    return not_too_rare(name, Cadence(chosen, stop=stop), steps, stacklevel=5), notes


def not_too_rare(name: str, cadence: Cadence, steps: int, stacklevel: int = 4) -> Cadence:
    """The cadence itself; warns if it fires fewer than three times in a run of `steps`."""
    if cadence.count(steps) < 3:
        warnings.warn(f"{name} changes its pattern fewer than three times in {steps} steps", stacklevel=stacklevel)
    return cadence


def check_batches(name: str, batches: int) -> None:
    """Raises a `ValueError` unless there is at least one to score on."""
    if batches < 1:
        raise ValueError(f"{name} takes batches >= 1, got {batches}")


def steps_of(name: str, total_steps: int | None) -> int:
    if total_steps is None or total_steps < 1:
        raise ValueError(f"{name} needs total_steps, the number of optimizer steps of the run, got {total_steps}")
    return total_steps


def end_of(name: str, stop: float, total_steps: int | None) -> float:
    """The step at the fraction `stop` of the run."""
    if not 0 < stop <= 1:
        raise ValueError(f"{name} takes stop as a fraction of the run in (0, 1], got {stop}")
    return stop * steps_of(name, total_steps)


def epoch_of(name: str, steps_per_epoch: int | None) -> int:
    if steps_per_epoch is None or steps_per_epoch < 1:
        raise ValueError(f"{name} counts in epochs and needs steps_per_epoch, got {steps_per_epoch}")
    return steps_per_epoch


def epochs_of(name: str, total_steps: int | None, steps_per_epoch: int | None) -> tuple[int, int, int]:
    """Steps, steps of an epoch, and epochs of the run."""
    steps, period = steps_of(name, total_steps), epoch_of(name, steps_per_epoch)
    return steps, period, max(1, round(steps / period))

"""Schedules are values that change with the optimizer step; cadences say when a pattern changes. Steps count from 0.

A schedule is made by its name in small letters: `cosine(0.3, stop=100)` is a `Cosine`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, exp, inf, pi
from typing import Protocol


class Schedule(Protocol):
    """A number for every step."""

    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True)
class Constant:
    """Always `value`."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class Cosine:
    """`final + (initial - final) / 2 (1 + cos(pi t / stop))` at step t, and `final` from step `stop` on (RigL,
    section 3; GraBo, section 4; Loshchilov and Hutter 2017).

    Examples:
        >>> [round(cosine(0.3, 100)(t), 3) for t in (0, 50, 100)]
        [0.3, 0.15, 0.0]
    """

    initial: float
    stop: float
    final: float = 0.0

    def __call__(self, step: int) -> float:
        cosine = cos(pi * min(max(step / self.stop, 0.0), 1.0))
        return self.final + (self.initial - self.final) / 2 * (1 + cosine)


@dataclass(frozen=True)
class Cubic:
    """`final + (initial - final) (1 - t / stop)^3` at step t, which advances in whole periods, and `final` from
    step `stop` on (Zhu and Gupta, eq. 1).

    Examples:
        >>> [round(cubic(0.9, 100, period=10)(t), 3) for t in (0, 50, 55, 100)]
        [0.0, 0.787, 0.787, 0.9]
    """

    final: float
    stop: float
    period: float = 1
    initial: float = 0.0

    def __call__(self, step: int) -> float:
        progress = min(step // self.period * self.period / self.stop, 1.0)
        return self.initial + (self.final - self.initial) * (1 - (1 - progress) ** 3)


@dataclass(frozen=True)
class Sigmoid:
    """`final / (1 + exp(-steepness (k - epochs / 2)))` in epoch k of `period` steps, and `final` in the last of
    `epochs` (OptG)."""

    final: float
    epochs: int
    steepness: float
    period: int

    def __call__(self, step: int) -> float:
        epoch = step // self.period
        if epoch >= self.epochs - 1:
            return self.final
        return self.final / (1 + exp(min(700.0, self.steepness * (self.epochs / 2 - epoch))))


@dataclass(frozen=True)
class Late:
    """0 before step `start`, and the values of `schedule` from then on."""

    schedule: Schedule
    start: int

    def __call__(self, step: int) -> float:
        return self.schedule(step) if step >= self.start else 0.0


@dataclass(frozen=True)
class Stairs:
    """Each of `levels` for `period` steps, and the last one for ever."""

    levels: Sequence[float]
    period: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))

    def __call__(self, step: int) -> float:
        return self.levels[min(step // self.period, len(self.levels) - 1)]


@dataclass(frozen=True)
class Towards:
    """The values of `schedule`, which ends above 0, in proportion, so that it ends with `final`."""

    final: float
    schedule: Schedule

    def __call__(self, step: int) -> float:
        value, last = self.schedule(step), final(self.schedule)
        return self.final if value == last else self.final * value / last


constant, cosine, cubic, sigmoid = Constant, Cosine, Cubic, Sigmoid
late, stairs, towards = Late, Stairs, Towards


@dataclass(frozen=True)
class Cadence:
    """The steps at which the pattern changes: the multiples of `period` in [start, stop], and `last`."""

    period: int
    start: int = 1
    stop: float = inf
    last: int | None = None

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError(f"a pattern can change every 1 or more steps (period, every=), got {self.period}")

    @property
    def first(self) -> int:
        """The first of the multiples; step 0, where nothing has been learned, does not count."""
        return -(-max(self.start, 1) // self.period) * self.period

    def fires(self, step: int) -> bool:
        return (self.start <= step <= self.stop and step % self.period == 0) or step == self.last

    def before(self, step: int) -> int:
        """Returns the change before the one at `step`; 0, the first pattern, if there is none."""
        previous = step - self.period
        return previous if previous >= self.start else 0

    def count(self, total_steps: int) -> int:
        """Returns how many times it fires in a run of `total_steps`."""
        last = min(self.stop, total_steps - 1)
        return max(0, int((last - self.first) // self.period) + 1)


@dataclass(frozen=True)
class Stages:
    """One cadence after another; between them they fire at no step twice."""

    cadences: tuple[Cadence, ...]

    @property
    def first(self) -> int:
        return self.cadences[0].first

    @property
    def period(self) -> int:
        """The longest."""
        return max(cadence.period for cadence in self.cadences)

    @property
    def stop(self) -> float:
        return max(cadence.stop for cadence in self.cadences)

    def fires(self, step: int) -> bool:
        return any(cadence.fires(step) for cadence in self.cadences)

    def before(self, step: int) -> int:
        """Returns what `Cadence.before` does."""
        return next((t for t in range(step - 1, 0, -1) if self.fires(t)), 0)

    def count(self, total_steps: int) -> int:
        """Returns what `Cadence.count` does."""
        return sum(cadence.count(total_steps) for cadence in self.cadences)


def final(schedule: Schedule) -> float:
    """Returns the value that a schedule keeps in the end, later than any run lasts."""
    return schedule(2**40)


ZERO = Constant(0.0)
NEVER = Cadence(1, start=1, stop=0)

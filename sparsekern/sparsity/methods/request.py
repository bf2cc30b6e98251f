"""A request is what a constructor is asked for; it fits a method to the length of a training run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TypeVar, cast

from ..parts.schedules import Cadence, Stages

When = TypeVar("When", Cadence, Stages)
MIN_CHANGES = 3  # that a run should have at least
SPACING = 10  # times what a change costs, so that changes take a tenth of the time at most


@dataclass
class Request:
    """A sparsity, and the training run in which a method is to reach it.

    Attributes:
        name: of the method.
        given: the sparsity; None where it emerges.
        notes: what the method adapts to the run, for reports.
        warnings: what the caller of the constructor is warned of.
    """

    name: str
    given: float | None
    total_steps: int | None
    steps_per_epoch: int | None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def sparsity(self) -> float:
        """Returns the sparsity of a method that reaches one."""
        return cast(float, self.given)

    @property
    def steps(self) -> int:
        """Returns the optimizer steps of the run.

        Raises:
            ValueError: they were not given.
        """
        steps = self.total_steps or 0
        self.check(steps >= 1, f"needs total_steps, the number of optimizer steps of the run, got {self.total_steps}")
        return steps

    @property
    def epoch(self) -> int:
        """Returns the optimizer steps of an epoch.

        Raises:
            ValueError: they were not given.
        """
        steps = self.steps_per_epoch or 0
        self.check(steps >= 1, f"counts in epochs and needs steps_per_epoch, got {self.steps_per_epoch}")
        return steps

    @property
    def epochs(self) -> int:
        """Returns the epochs of the run, at least one."""
        return max(1, round(self.steps / self.epoch))

    def end(self, stop: float) -> float:
        """Returns the step at the fraction `stop` of the run."""
        self.check(0 < stop <= 1, f"takes stop as a fraction of the run in (0, 1], got {stop}")
        return stop * self.steps

    def each_epoch(self, every: int | None, cost: int) -> int:
        """Returns `every`, or else the steps of an epoch, which papers count in: an epoch is never stretched."""
        if every is None and self.epoch < SPACING * cost:
            self.note(f"changes at every epoch of {self.epoch} steps take more than a tenth of the time; every= spaces")
        return self.epoch if every is None else every

    def pace(self, every: int | None, period: int, stop: float, changes: int, cost: int) -> int:
        """Returns `every`, or else the steps from one change to the next: the paper's `period`, in a shorter run fewer,
        so that the number of changes up to `stop` is the paper's, but at least `SPACING` times the `cost` of a change.
        Where that leaves fewer than three changes, the steps between them are fewer, and a warning says so.

        Args:
            cost: time of a change, in training steps of the sparse network, rounded up.
        """
        if every is not None:
            return every
        scaled, spaced, most = int(stop // changes), SPACING * cost, max(1, int(stop // MIN_CHANGES))
        chosen = min(period, max(scaled, min(spaced, most)))
        if chosen < min(period, spaced):
            self.warn(
                f"spends more than a tenth of the time on changes of its pattern, every {chosen} of {self.steps} steps",
                ceil(MIN_CHANGES * spaced * self.steps / stop),
            )
        if chosen != period:
            tenth, paper = "so that changes take a tenth of the time at most", f"for the paper's {changes} changes"
            why = {most: "for three changes", spaced: tenth, scaled: paper}[chosen]
            self.note(f"a change every {chosen} steps instead of {period}, {why}")
        return chosen

    def paced(self, every: int | None, period: int, stop: float, changes: int, cost: int) -> Cadence:
        """Returns the multiples of `pace` up to `stop`."""
        return self.often(Cadence(self.pace(every, period, stop, changes, cost), stop=stop))

    def often(self, cadence: When) -> When:
        """Returns the cadence; the caller is warned if it fires fewer than three times in the run."""
        if cadence.count(self.steps) < MIN_CHANGES:
            third = cadence.first + (MIN_CHANGES - 1) * cadence.period
            enough = ceil(third * self.steps / max(1, min(cadence.stop, self.steps))) + 1
            self.warn(f"changes its pattern fewer than three times in {self.steps} steps", enough)
        return cadence

    def warn(self, what: str, steps: int) -> None:
        """Warns the caller that the run is too short, and of how many `steps` would do."""
        self.warnings.append(f"{self.name} {what}; about {steps} steps would do (more epochs or smaller batches)")

    def emerges(self) -> None:
        """Notes that a given sparsity is not used."""
        if self.given:
            self.note(f"sparsity emerges; the given {self.given:g} is not used")

    def note(self, text: str) -> None:
        self.notes.append(f"{self.name}: {text}")

    def check(self, holds: bool, message: str) -> None:
        """Raises a `ValueError` that begins with the method's name unless a condition holds."""
        check(holds, f"{self.name} {message}")


def check(holds: bool, message: str) -> None:
    """Raises a `ValueError` unless a condition holds."""
    if not holds:
        raise ValueError(message)


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raises a `ValueError` unless an option has one of its values."""
    check(value in choices, f"{option} must be one of {', '.join(choices)}, got {value!r}")

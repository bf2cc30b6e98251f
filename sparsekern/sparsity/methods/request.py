"""A request is what a constructor is asked for; it fits a method to the length of a training run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from ..parts.schedules import Cadence, Stages

When = TypeVar("When", Cadence, Stages)


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

    def paced(self, every: int | None, period: int, stop: float, changes: int, shortest: int = 1) -> Cadence:
        """Returns the multiples of `every`, or else of the paper's period, up to `stop`. A run too short for the
        paper's number of changes has a shorter period, so that the number is the paper's, but never below `shortest`.
        """
        chosen = every if every is not None else min(period, max(shortest, int(stop // changes)))
        if every is None and chosen != period:
            self.note(f"a change every {chosen} steps instead of {period}, for the paper's {changes} changes")
        return self.often(Cadence(chosen, stop=stop))

    def often(self, cadence: When) -> When:
        """Returns the cadence; the caller is warned if it fires fewer than three times in the run."""
        if cadence.count(self.steps) < 3:
            self.warnings.append(f"{self.name} changes its pattern fewer than three times in {self.steps} steps")
        return cadence

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

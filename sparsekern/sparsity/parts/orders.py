"""Orders say when, around the optimizer's step, a pattern changes."""

from enum import Enum


class Order(str, Enum):
    """The order of the optimizer's step and a change of pattern. A member equals its value.

    AFTER: the optimizer steps, then the pattern changes by the gradients of the same step.
    INSTEAD: the pattern changes, and the optimizer does not step.
    BEFORE: the pattern changes before the forward pass of the step.
    """

    AFTER = "step"
    INSTEAD = "replace"
    BEFORE = "before"

    @property
    def replaces_step(self) -> bool:
        """Whether the optimizer does not step when the pattern changes."""
        return self is Order.INSTEAD

    @property
    def precedes_step(self) -> bool:
        """Whether the pattern changes before the passes of the step."""
        return self is Order.BEFORE

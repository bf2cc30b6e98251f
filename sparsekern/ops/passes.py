"""Tells the backward passes of a step from others: which ones the gradient of a weight is made of."""

from typing import Any, Literal, NamedTuple

from torch import Tensor

from .. import private_torch


class WeightUse(NamedTuple):
    """One use of a weight, as its backward pass goes by.

    Attributes:
        tasks: the backward pass, and the one that the use itself ran in: reentrant checkpoints repeat the forward pass
            of a segment within a backward pass, and run one of the segment's own.
        kept: whether the gradient goes into `weight.grad`; otherwise it is handed out, as `torch.autograd.grad` does.
    """

    tasks: frozenset[int]
    kept: bool


def running() -> int:
    """Returns the number of the backward pass that is running, -1 outside of any."""
    return private_torch.current_backward()


def weight_use(ctx: Any, began_in: int) -> WeightUse | None:
    """Returns the use that a Function's backward belongs to, None if nobody asked for the gradient of the weight. The
    weight is the Function's last tensor; the gradient of a frozen one passes for asked.

    Args:
        began_in: what `running` was in the Function's forward.
    """
    tasks, node = frozenset({running(), began_in} - {-1}), ctx.next_functions[-1][0]
    try:
        asked = node is None or private_torch.will_execute(node)
    except RuntimeError:  # the engine does not visit the leaf: `torch.autograd.grad` takes the gradient before it
        return WeightUse(tasks, kept=False)
    return WeightUse(tasks, kept=True) if asked else None


class Passes:
    """The backward passes that the gradient of a weight is made of: those whose statistics belong to the next step.

    What `torch.autograd.grad` hands out counts where nothing is in `weight.grad`.

    Attributes:
        elsewhere: the gradient leaves `weight.grad` when a pass ends, as that of a sharded weight does: only `clear`
            tells that it was cleared.
    """

    def __init__(self) -> None:
        self.tasks: list[frozenset[int]] = []
        self.kept = self.elsewhere = False

    def __reduce__(self) -> tuple:
        return Passes, ()  # copies have seen none

    def add(self, use: WeightUse, weight: Tensor) -> Literal["first", "further", "again", "other"]:
        """Adds the pass of a use of `weight`. Says whether it is the first, a further one, or the one in which the
        weight was used before; or another one, of which the gradient is not made."""
        if any(use.tasks & tasks for tasks in self.tasks):
            return "again"
        gradient = weight.grad if weight.is_leaf else None
        # The gradients of a skipped step were cleared, or set to zero.
        empty = gradient is None or (bool(self.tasks) and not gradient.any())
        empty &= not self.elsewhere
        if not (use.kept or empty) and self.kept:
            return "other"
        first = not self.tasks or (empty and (use.kept or self.kept))
        if first:
            self.tasks, self.kept = [], False
        self.tasks.append(use.tasks)
        self.kept |= use.kept
        return "first" if first else "further"

    def clear(self) -> None:
        self.tasks, self.kept = [], False

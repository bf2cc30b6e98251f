"""A rule does what a method has beyond the composition of its parts: statistics, counts or masks of its own."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..nn.masked import Gradient as Gradient
from .sites.layer_site import LayerSite
from .sites.nonzeros import NonzerosSite

REPLACED = {
    "held": "masks(sites, step, losses)",
    "wants_moment": "gradient(step)",
    "needs_loss": "epoch, the steps of one",
    "equip": "the method's storage",
}
RENAMED = {"follow": "after_backward", "stepped": "after_step"}


class Rule:
    """Holds the part of a paper that has a file of its own. It has no state: statistics of the weights live in
    `LayerSite.tracked`, and are saved there.

    Attributes:
        epoch: the steps of an epoch, of a rule that looks at the training loss of every epoch
            (`Sparsifier.epoch_end`): the change after an epoch waits for it.
        prune_missed: `exchange` takes layers that no gradient reached in the step of a change, too, and grows nothing
            there.
        rewind: the step to which Parameters, buffers and optimizer state return after every change of pattern.
    """

    epoch: int | None = None
    prune_missed: bool = False
    rewind: int | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuses hooks of version 0.1 that nobody would call, and takes others by their new names."""
        super().__init_subclass__(**options)
        for name, new in RENAMED.items():
            hook = getattr(cls, name)
            if new in vars(cls) or hook in (getattr(Rule, name), getattr(cls, new)):
                continue
            warnings.warn(
                f"{cls.__name__}.{name} is called {new} now; the old name goes with version 0.3",
                DeprecationWarning,
                stacklevel=2,
            )
            setattr(cls, new, hook)
        for name, place in REPLACED.items():
            if name in vars(cls):
                raise TypeError(f"{cls.__name__}.{name} is a hook of version 0.1; its place is taken by {place}")
        if "held" in getattr(getattr(vars(cls).get("masks"), "__code__", None), "co_varnames", ()):
            raise TypeError(f"{cls.__name__}.masks takes (sites, step, losses) now, and returns [] to freeze the masks")

    def clock(self, step: int) -> float:
        """Returns the step of an ordinary run whose learning rate belongs to `step`, where a method trains in
        rounds."""
        return step

    def gradient(self, step: int) -> Gradient:
        """Returns which gradient of a dense weight the layers compute in this step, "dense" or that of the "active"
        weights only; "moment": the dense one, and the second moment over samples."""
        return "dense"

    def begin(self, site: LayerSite) -> dict[str, Tensor]:
        """Returns the statistics before the first step, by name."""
        return {}

    def after_backward(self, site: LayerSite, step: int, lr: float) -> None:
        """Updates `site.tracked` after the backward pass of a step, before the optimizer's; may change the gradient.

        Args:
            lr: learning rate of the weight in this step.
        """

    def after_step(self, site: LayerSite, step: int, lr: float, generator: torch.Generator) -> None:
        """May change the weight after the optimizer's step, before the pattern changes. `lr` as in
        `after_backward`."""

    def follow(self, site: LayerSite, step: int, lr: float) -> None:
        """The old name of `after_backward`, until version 0.3, for the `super()` of rules that have it."""

    def stepped(self, site: LayerSite, step: int, lr: float, generator: torch.Generator) -> None:
        """The old name of `after_step`, as `follow`."""

    def exchange(self, sites: Sequence[NonzerosSite], step: int) -> list[tuple[Tensor, int]] | None:
        """Returns, at a change of a method that stores nonzeros only, which active weights of each site stay, bool
        `[nnz]`, and how many of the candidates of `Method.grow` grow there. None: as `Method.drop`, `view` and
        `grow` say."""
        return None

    def masks(self, sites: Sequence[LayerSite], step: int, losses: Sequence[float]) -> list[Tensor] | None:
        """Returns, at a change of a method that keeps pruned weights, which weights of each site take part from `step`
        on, bool of the weights' shapes. None: those that score highest by `Method.drop`; empty: the masks are frozen.

        Args:
            losses: mean training loss of every epoch so far, as far as it was told.
        """
        return None


NO_RULE = Rule()

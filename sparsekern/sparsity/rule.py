"""What a method does beyond the composition of its parts: numbers that it follows per weight, masks of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..nn import PatternLayer
from ..nn.masked import Gradient
from .sites.site import LayerSite, Site


class Rule:
    """The part of a paper that has a file of its own. It has no state: numbers per weight live in `Site.tracked`, and
    are saved there.

    gradient: `weight_gradient` of layers with a dense weight in steps that want no moment.
    needs_loss: `held` looks at the training loss of every epoch (`Sparsifier.epoch_end`).
    rewind: the step to which Parameters, buffers and optimizer state return after every change of pattern.
    """

    gradient: Gradient = "dense"
    rewind: int | None = None

    @property
    def needs_loss(self) -> bool:
        return False

    def clock(self, step: int) -> float:
        """The step of an ordinary run whose learning rate belongs to `step`, where a method trains in rounds."""
        return step

    def wants_moment(self, step: int) -> bool:
        """Whether the layers compute the second moment of the per-sample gradients in this step."""
        return False

    def equip(self, layer: PatternLayer) -> None:
        """May add Parameters of its own to a new layer, which the optimizer will step."""

    def begin(self, site: LayerSite) -> dict[str, Tensor]:
        """The numbers per weight before the first step, by name."""
        return {}

    def follow(self, site: LayerSite, step: int, lr: float) -> None:
        """Updates `site.tracked` after the backward pass of a step, before the optimizer's; may change the gradient.

        Args:
            lr: learning rate of the weight in this step.
        """

    def stepped(self, site: LayerSite, step: int, lr: float, generator: torch.Generator) -> None:
        """May change the weight after the optimizer's step, before the pattern changes. `lr` as in `follow`."""

    def held(self, losses: Sequence[float]) -> bool:
        """Whether the pattern is to rest, given the mean training losses of the epochs so far."""
        return False

    def exchange(self, sites: Sequence[Site], step: int) -> list[tuple[Tensor, int]] | None:
        """Of a method that stores nonzeros only, at a change: which active weights of each site stay, bool `[nnz]`, and
        how many of the proposals of `Method.grow` come to life there. None: by `Method.drop`, `rate` and `view`."""
        return None

    def masks(self, sites: Sequence[LayerSite], step: int, held: bool) -> list[Tensor] | None:
        """Which weights of each site take part from `step` on, bool of the weights' shapes. None: those that score
        highest by the method's criterion or, if `held`, those that did before."""
        return None


NO_RULE = Rule()

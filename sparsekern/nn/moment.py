"""The second moment of the samples' shares of a gradient, recorded while backward passes compute the gradient."""

from functools import partial

import torch
from torch import Tensor, nn

from ..ops.passes import Passes, WeightUse
from ..ops.shapes import accumulate_dtype
from ..ops.straight_through import Record
from ..ops.transforms import refuse_transforms


class GradientMoment:
    """Adds up the second moment of the gradient of one weight. Copies and pickles of it are empty.

    Attributes:
        total: sum over samples of the square of what each contributes to the gradient, of the weight's shape, in fp32
            or wider; None until a backward pass adds to it.
        samples: how many samples `total` is the sum of.
        signature: `signature` of the gradient that belongs to `total`: the one in `weight.grad` may have been clipped
            or unscaled since.
        passes: the backward passes that `total` is of.
    """

    def __init__(self) -> None:
        self.passes = Passes()
        self.clear()

    def __reduce__(self) -> tuple:
        return GradientMoment, ()

    def clear(self) -> None:
        """Drops what backward passes have added."""
        self.total: Tensor | None = None
        self.signature: Tensor | None = None
        self.samples = 0
        self.passes.clear()

    def recorder(self, input: Tensor, weight: nn.Parameter, dims: int) -> Record:
        """Returns the callback that adds the backward pass of a product of `input`, with `dims` dimensions or more if
        it has a batch, and `weight`."""
        refuse_transforms()
        if input.dim() < dims:
            raise ValueError(
                f"the second moment over samples needs a batch of them, [B, ...], got an input of {tuple(input.shape)}"
            )
        return partial(self._add, weight)

    def _add(self, weight: nn.Parameter, use: WeightUse, gradient: Tensor, moment: Tensor, samples: int) -> None:
        place = self.passes.add(use, weight)
        if place == "again":
            raise RuntimeError(
                f"the layer with a weight {tuple(weight.shape)} is used twice in one pass; its second moment would "
                "need the sum of both uses of a sample before squaring: give every use a layer of its own"
            )
        if place == "other":
            return
        mark, first = signature(gradient.to(weight.dtype)), place == "first"  # as it arrives there
        self.total = moment if first or self.total is None else self.total.add_(moment)
        self.signature = mark if first or self.signature is None else self.signature + mark
        self.samples = samples if first else self.samples + samples


def signature(gradient: Tensor) -> Tensor:
    """Returns two sums that are linear in the gradient. They tell a gradient that was scaled as a whole from one that
    was changed otherwise."""
    rows = gradient.flatten(1)[:: max(1, len(gradient) // 64)]  # a look at some is enough
    rows = rows.to(accumulate_dtype(rows.dtype))  # bf16 has no numbers like 257
    angles = torch.arange(1.0, max(rows.shape) + 1, dtype=rows.dtype, device=rows.device)
    waves = torch.stack([angles.cos(), angles.sin()], 1)
    return waves[: rows.shape[0], 0] @ (rows @ waves[: rows.shape[1]])

"""The second moment of the samples' shares of a gradient, recorded while backward passes compute the gradient."""

from typing import Any

import torch
from torch import Tensor

from ..ops.passes import Passes, WeightUse
from ..ops.shapes import accumulate_dtype
from ..ops.straight_through import Record
from ..ops.transforms import refuse_transforms
from .saved import SavedLayer

RECORDED = ("moment", "signature", "samples", "_passes")


class MomentLayer(SavedLayer):
    """A layer that can record the second moment of its weight gradient.

    Attributes:
        moment: sum over samples of the square of what each contributes to the gradient, of the weight's shape, in fp32
            or wider; None until a backward pass records it.
        samples: how many samples `moment` is the sum of.
        signature: `signature` of the gradient that belongs to `moment`: the one in `stored.grad` may have been clipped
            or unscaled since.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.moment: Tensor | None = None
        self.signature: Tensor | None = None
        self.samples = 0
        self._passes = Passes()

    @property
    def passes(self) -> Passes:
        """The backward passes that `moment` is of."""
        return self._passes

    def forget(self) -> None:
        """Clears what backward passes have recorded."""
        if self.moment is not None or self.signature is not None:  # modules set attributes slowly
            self.moment = self.signature = None
            self.samples = 0
            self._passes.clear()

    def recorder(self, input: Tensor) -> Record:
        """Returns the callback that records the pass of a prepared input."""
        refuse_transforms()
        if input.dim() < self.BATCHED:
            raise ValueError(
                f"the second moment over samples needs a batch of them, [B, ...], got an input of {tuple(input.shape)}"
            )
        return self._record

    def _record(self, use: WeightUse, gradient: Tensor, moment: Tensor, samples: int) -> None:
        place = self._passes.add(use, self.stored)
        if place == "again":
            raise RuntimeError(
                f"this {type(self).__name__} is used twice in one pass; its second moment would need the sum of both "
                "uses of a sample before squaring: give every use a layer of its own"
            )
        if place == "other":
            return
        mark, first = signature(gradient.to(self.stored.dtype)), place == "first"  # as it arrives there
        self.moment = moment if first or self.moment is None else self.moment.add_(moment)
        self.signature = mark if first or self.signature is None else self.signature + mark
        self.samples = samples if first else self.samples + samples

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state of copies and pickles, which have not seen a backward pass."""
        return {**super().__getstate__(), "moment": None, "signature": None, "samples": 0}


def signature(gradient: Tensor) -> Tensor:
    """Returns two sums that are linear in the gradient. They tell a gradient that was scaled as a whole from one that
    was changed otherwise."""
    rows = gradient.flatten(1)[:: max(1, len(gradient) // 64)]  # a look at some is enough
    rows = rows.to(accumulate_dtype(rows.dtype))  # bf16 has no numbers like 257
    angles = torch.arange(1.0, max(rows.shape) + 1, dtype=rows.dtype, device=rows.device)
    waves = torch.stack([angles.cos(), angles.sin()], 1)
    return waves[: rows.shape[0], 0] @ (rows @ waves[: rows.shape[1]])

"""Parameters that a change of pattern has replaced, and that somebody still holds."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn


class Replaced(nn.Parameter):
    """A Parameter whose layer has another one now. Whoever uses it learns that.

    A list of Parameters that was made before training, to clip gradients or to average weights, would otherwise go on
    with the weights and the gradient of the step before the change, and nobody would notice.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise RuntimeError(
            "this Parameter was replaced when a change of pattern gave its layer more or less room "
            "(Sparsifier.reallocated): take the Parameters from model.parameters() anew, in every step or after each "
            "step that replaced some"
        )

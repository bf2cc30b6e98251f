"""Starts: which layers become sparse, how their first pattern is chosen, and which values its weights begin with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast, get_args

from torch import Tensor

from ..parts import scopes
from ..parts.distributions import Distribution, by_name, uniform
from ..parts.scopes import Scope
from ..parts.scores import Score, Scored
from .network import Network, mean_gradient

Initialize = Literal["keep", "fan_in", "evci", "rescale"]


@dataclass(frozen=True)
class Start:
    """Says what `sparsify` makes of a dense network.

    Attributes:
        choose: `choose(network)` returns a bool mask for every layer, True where a weight stays. None: the pattern is
            random, G(n, M) in every layer; where pruned weights are kept it is all weights, unless the sparsity of step
            0 is above 0 and no change comes before it.
        batches: how many batches it wants; 0: it scores without data.
        batch_size: the paper's samples in each; None: those of the training.
        per_class: so many samples of each class, spread over the batches, in the place of random ones.
        needs_loss: whether it asks for the loss beside the inputs.
        unit: what the method's sparsity counts.
        scope: which layers are pruned.
        share: how the layers share the weights of a random pattern.
        initialize: which values the weights begin with. "keep" those of the model; "rescale" them by
            sqrt(dense fan-in / fan-in) of each row, so that the variance of its output is that of the dense row; or
            draw new ones with variance 1 / fan-in ("fan_in") or 2 / fan-in ("evci", Evci et al. 2022, arXiv
            2010.03533).
        given: whether the pattern is that of the masks that `sparsify` gets, of whatever sparsity.
    """

    choose: Callable[[Network], list[Tensor]] | None = None
    batches: int = 0
    batch_size: int | None = None
    per_class: int | None = None
    needs_loss: bool = True
    unit: Literal["weight", "channel"] = "weight"
    scope: Scope = scopes.everything
    share: Distribution = uniform
    initialize: Initialize = "keep"
    given: bool = False

    def __post_init__(self) -> None:
        if self.initialize not in get_args(Initialize):
            raise ValueError(f"initialize must be 'keep', 'fan_in', 'evci' or 'rescale', got {self.initialize!r}")

    def rechosen(self, **changes: Any) -> "Start":
        """Returns the same start with other fields of `choose`, a dataclass."""
        return replace(self, choose=replace(cast(Any, self.choose), **changes))


RANDOM = Start(initialize="rescale")


def drawn(share: str | Distribution, initialize: str = "rescale", scope: Scope = scopes.everything) -> Start:
    """Returns the start of a random pattern. Names as in `distributions.by_name` and `Start.initialize`."""
    return Start(share=by_name(share), initialize=cast(Initialize, initialize), scope=scope)


def elementwise(score: Score, batches: int = 0, scope: Scope = scopes.everything) -> Start:
    """Returns the start that keeps the weights of the highest scores, with their mean gradients over the batches if
    there are any."""
    return Start(partial(_highest, score, batches > 0), batches, needs_loss=batches > 0, scope=scope)


def _highest(score: Score, needs_gradient: bool, network: Network) -> list[Tensor]:
    weights = network.weights
    gradients: Sequence[Tensor | None] = [None] * len(weights)
    if needs_gradient:
        gradients = mean_gradient(network.model, weights, network.batches, network.loss)
    return network.largest([score(Scored(w.detach(), g)) for w, g in zip(weights, gradients, strict=True)])

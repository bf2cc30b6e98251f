"""Progressive Skeletonization (de Jorge et al., ICLR 2021): SNIP again and again, on the network pruned so far."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..method import Method
from ..parts import scores
from ..parts.schedules import constant
from ..parts.scores import Scored
from ..scoring.network import Network, mean_gradient
from ..scoring.start import Start
from .registry import listed, variant_of
from .request import Request


@dataclass(frozen=True)
class PruningRounds:
    """Prunes the dense network in rounds, by |w * g| with the gradient g of the network pruned so far.

    Attributes:
        returning: what was pruned in an earlier round may return.
    """

    count: int
    returning: bool = False

    def __call__(self, network: Network) -> list[Tensor]:
        weights = network.weights
        masks = [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
        for i in range(1, self.count + 1):
            gradients = mean_gradient(network.model, weights, network.batches, network.loss, masks)
            products = [scores.saliency(Scored(w.detach(), g)) for w, g in zip(weights, gradients, strict=True)]
            if not self.returning:
                products = [p.masked_fill(~mask, -torch.inf) for p, mask in zip(products, masks, strict=True)]
            masks = network.after(i / self.count).largest(products)
        return masks


@listed(
    "Iterative SNIP",
    paper="de Jorge et al., ICLR",
    year=2021,
    gradient="active weights; dense in every round beforehand",
    needs_batches=True,
)
def iter_snip(request: Request, *, rounds: int = 60, batches: int = 1) -> Method:
    """Iterative SNIP: Progressive Skeletonization, Trimming more fat from a network at initialization (de Jorge et al.,
    ICLR 2021, arXiv 2006.09081).

    In round i of `rounds` the globally largest |w * g| of what is left stay, a density of density^(i / rounds); g is
    the gradient of the network pruned so far, the mean over the batches. What is pruned stays pruned. One round is
    `snip`. In the official code pruned weights get the smallest score of the others, every weight whose score equals
    the threshold's stays, and each round draws batches of its own; here the counts are exact, pruned weights are out,
    and every round takes all batches that `sparsify` is given.

    Args:
        rounds: T, how many times weights are removed, 60 in the paper's experiments.
        batches: how many to take on the command line: 1, as in the official code; its recipes take 10 for CIFAR-100 and
            20 for Tiny ImageNet, the paper 40 for ImageNet.
    """
    request.check(batches >= 1, f"takes batches >= 1, got {batches}")
    request.check(rounds >= 1, f"takes rounds >= 1, got {rounds}")
    return Method(request.name, constant(request.sparsity), start=Start(PruningRounds(rounds), batches))


@variant_of(iter_snip, "FORCE")
def force(base: Method, *, rounds: int = 60) -> Method:
    """FORCE, foresight connection sensitivity: Progressive Skeletonization, Trimming more fat from a network at
    initialization (de Jorge et al., ICLR 2021, arXiv 2006.09081).

    Works as `iter_snip`, but the globally largest |w * g| of all initial weights w stay, where g is the gradient of the
    pruned network by every entry: what was pruned in an earlier round may return. One round is `snip`. Differences from
    the official code as there.

    Args:
        rounds, batches: as in `iter_snip`.
    """
    return replace(base, start=base.start.rechosen(returning=True))


Rounds = PruningRounds  # as it was called in version 0.1

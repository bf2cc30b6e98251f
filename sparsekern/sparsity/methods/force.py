"""Progressive Skeletonization (de Jorge et al., ICLR 2021): SNIP again and again, on the network pruned so far."""

from functools import partial

import torch
from torch import Tensor

from ..method import Method
from ..parts import scores
from ..parts.schedules import constant
from ..scoring.network import Network, Start, mean_gradient
from .registry import Entry, check_batches, listed


def _entry(title: str) -> Entry:
    paper = "de Jorge et al., ICLR"
    return Entry(title, paper, 2021, "nonzeros", "never", "dense, in every round before", needs_batches=True)


def _iterated(name: str, sparsity: float, rounds: int, batches: int, returning: bool) -> Method:
    check_batches(name, batches)
    if rounds < 1:
        raise ValueError(f"{name} takes rounds >= 1, got {rounds}")
    return Method(name, constant(sparsity), start=Start(name, partial(_choose, rounds, returning), batches))


def _choose(rounds: int, returning: bool, network: Network) -> list[Tensor]:
    weights = network.weights
    masks = [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
    for i in range(1, rounds + 1):
        gradients = mean_gradient(network.model, weights, network.batches, network.loss, masks)
        products = [scores.saliency(w.detach(), g) for w, g in zip(weights, gradients, strict=True)]
        if not returning:
            products = [product.masked_fill(~mask, -torch.inf) for product, mask in zip(products, masks, strict=True)]
        masks = network.after(i / rounds).largest(products)
    return masks


@listed(_entry("Iterative SNIP"))
def iter_snip(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    rounds: int = 60,
    batches: int = 1,
) -> Method:
    """Iterative SNIP: Progressive Skeletonization, Trimming more fat from a network at initialization (de Jorge et al.,
    ICLR 2021).

    In round i of `rounds` the globally largest |w * g| of what is left stay, a density of density^(i / rounds); g is
    the gradient of the network pruned so far, the mean over the batches. What is pruned stays pruned. One round is
    `snip`. In the official code pruned weights get the smallest score of the others, every weight whose score equals
    the threshold's stays, and each round draws batches of its own; here the counts are exact, pruned weights are out,
    and every round takes all batches that `sparsify` is given.

    Args:
        rounds: T, 60 in the paper's experiments.
        batches: how many to take on the command line: 1, as in the official code; its recipes take 10 for CIFAR-100 and
            20 for Tiny ImageNet, the paper 40 for ImageNet.
    """
    return _iterated("iter_snip", sparsity, rounds, batches, returning=False)


@listed(_entry("FORCE"))
def force(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    rounds: int = 60,
    batches: int = 1,
) -> Method:
    """FORCE, foresight connection sensitivity: Progressive Skeletonization, Trimming more fat from a network at
    initialization (de Jorge et al., ICLR 2021).

    As `iter_snip`, but the globally largest |w * g| of all initial weights w stay, where g is the gradient of the
    pruned network by every entry: what was pruned in an earlier round may return. One round is `snip`. Differences from
    the official code as there.

    Args:
        rounds, batches: as in `iter_snip`.
    """
    return _iterated("force", sparsity, rounds, batches, returning=True)

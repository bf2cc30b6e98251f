"""Prospect Pruning (Alizadeh et al., ICLR 2022): weights scored by their effect on the first steps of training."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import inf

from torch import Tensor

from ..method import Method
from ..parts.schedules import constant
from ..scoring.channels import gate_sums, highest_channels, removable_groups
from ..scoring.network import Network, Start, scoring
from ..scoring.objective import Objective, meta_gradient
from .registry import Entry, listed


def _entry(title: str) -> Entry:
    paper = "Alizadeh et al., ICLR"
    gradient = "dense, through training steps, once before"
    return Entry(title, paper, 2022, "nonzeros", "never", gradient, needs_batches=True)


@dataclass(frozen=True)
class Prospect:
    """The first steps of training, through which weights are scored; for the arguments see `prospr`."""

    name: str
    inner_steps: int
    lr: float
    momentum: float
    fresh_batches: bool
    batch_size: int
    first_order: bool = False

    def __post_init__(self) -> None:
        name, steps, size, lr, momentum = self.name, self.inner_steps, self.batch_size, self.lr, self.momentum
        if steps < 0 or size < 1:
            raise ValueError(f"{name} takes inner_steps >= 0 and batch_size >= 1, got {steps} and {size}")
        if not 0 <= lr < inf or not 0 <= momentum < 1:
            raise ValueError(f"{name} takes a finite lr >= 0 and momentum in [0, 1), got {lr} and {momentum}")

    def start(self, choose: Callable[[Network], list[Tensor]]) -> Start:
        batches = self.inner_steps + 1 if self.fresh_batches else 1
        return Start(self.name, choose, batches, self.batch_size)

    def highest(self, network: Network) -> list[Tensor]:
        """The masks of the globally highest |w_init * dL(w_M)/dw_init|."""
        return network.largest([product.abs() for product in self.products(network)])

    def products(self, network: Network) -> list[Tensor]:
        """w_init * dL(w_M)/dw_init of every weight to prune."""
        steps = self.inner_steps + 1
        batches = list(islice(network.batches, steps if self.fresh_batches else 1))
        with scoring(network.model):
            parameters = list(network.model.parameters())
            gradients = meta_gradient(
                Objective(network.model, network.loss),
                parameters,
                batches if self.fresh_batches else batches * steps,
                [self.lr if parameter.requires_grad else 0.0 for parameter in parameters],
                self.momentum,
                first_order=self.first_order,
            )
        place = {id(parameter): i for i, parameter in enumerate(parameters)}
        return [weight.detach() * gradients[place[id(weight)]] for weight in network.weights]


@listed(_entry("ProsPr"))
def prospr(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    inner_steps: int = 3,
    lr: float = 0.1,
    momentum: float = 0.0,
    fresh_batches: bool = True,
    batch_size: int = 512,
) -> Method:
    """Prospect Pruning: Finding Trainable Weights at Initialization using Meta-Gradients (Alizadeh et al., ICLR 2022).

    Keeps the globally largest |w * dL(w_M)/dw| of the initial weights w, where w_M is what M = `inner_steps` steps of
    SGD make of them (algorithm 1): how much a weight matters for the loss after some training. M = 0 is SNIP. The steps
    move every trainable Parameter, biases and batch norm's included; all of them, and the statistics of batch norm, are
    rewound before the training, which runs on the nonzeros.

    The derivative through the steps is exact, taken backwards by Hessian-vector products: v = dL/dw_M, z = 0, then for
    each step from the last, z <- momentum z - lr v, v <- v + H z. So the memory is that of one step, not of M.

    Batch norm uses the batch's statistics and is differentiated through them; dropout is off. The sum by which the
    paper divides (eq. 11) does not change the order. Where the official code differs from the paper, the paper is
    followed: there one batch serves all steps and the final loss unless told otherwise (`fresh_batches=False`), a
    batch has 128 samples, and the first momentum buffer is cut off from differentiation, so that a momentum loses the
    first step's Hessian.

    Args:
        inner_steps: M.
        lr, momentum: of the M steps, the official code's; the paper does not say. No weight decay.
        fresh_batches: every step and the final loss have a batch of their own, M + 1 in all; otherwise they share one.
        batch_size: samples in each, for the command line; otherwise the caller of `sparsify` sees to it.
    """
    prospect = Prospect("prospr", inner_steps, lr, momentum, fresh_batches, batch_size)
    return Method("prospr", constant(sparsity), start=prospect.start(prospect.highest))


@listed(_entry("ProsPr, first order"))
def prospr_first_order(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    inner_steps: int = 3,
    lr: float = 0.1,
    momentum: float = 0.0,
    fresh_batches: bool = True,
    batch_size: int = 512,
) -> Method:
    """`prospr` without second derivatives: keeps the globally largest |w_init * g|, g the gradient at w_M, after the
    steps (Alizadeh et al., ICLR 2022)."""
    prospect = Prospect("prospr_first_order", inner_steps, lr, momentum, fresh_batches, batch_size, first_order=True)
    return Method("prospr_first_order", constant(sparsity), start=prospect.start(prospect.highest))


@listed(_entry("ProsPr, channels"))
def prospr_channel(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    inner_steps: int = 3,
    lr: float = 0.1,
    momentum: float = 0.0,
    fresh_batches: bool = True,
    batch_size: int = 512,
    min_per_layer: int = 0,
) -> Method:
    """`prospr` for whole output channels (Alizadeh et al., ICLR 2022): `sparsity` is the fraction of channels removed.

    One gate c multiplies the weights of a channel; its score is |dL(w_M)/dc| = |sum_j w_j dL(w_M)/dw_j|, the sum inside
    the absolute value. Layers whose outputs are added share their gates, so that the sum runs over the rows of all of
    them. The n - floor(sparsity n) highest of the network's n gates stay. Outputs of the network have none, nor do
    channels that cannot be taken out: those of grouped convolutions, those that reach an operation that mixes them
    (attention, layer norm), and those that a layer outside the pruning writes or reads. The model has to be one that
    `torch.fx` can trace.

    A channel is removed with all that belongs to it: the weights that write it, the weights that read it, its biases,
    and its shifts in batch norm, which are set to 0. Since nothing reads it, no gradient reaches what is set to 0, and
    it stays 0 under any optimizer; so `shrink` may take the channel out, before the training or after it. Weights and
    steps are otherwise as in `prospr`. The official code has no channel variant.

    Args:
        min_per_layer: so many channels stay in each group of tied layers; otherwise one may lose all, with a warning.
    """
    prospect = Prospect("prospr_channel", inner_steps, lr, momentum, fresh_batches, batch_size)
    start = replace(prospect.start(partial(_channels, prospect, sparsity)), unit="channel")
    return Method("prospr_channel", constant(sparsity), start=start, min_per_layer=min_per_layer)


def _channels(prospect: Prospect, sparsity: float, network: Network) -> list[Tensor]:
    groups = removable_groups(network)
    gates = gate_sums(network, groups, prospect.products(network))
    return highest_channels(network, groups, [gate.abs() for gate in gates], sparsity)

"""Prospect Pruning (Alizadeh et al., ICLR 2022): weights scored by their effect on the first steps of training."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import inf
from typing import cast

from torch import Tensor

from ..method import Method
from ..parts.schedules import constant
from ..scoring.channels import gate_sums, highest_channels, removable_groups
from ..scoring.network import Network, scoring
from ..scoring.objective import Objective, meta_gradient
from ..scoring.start import Initialize, Start
from .registry import listed, variant_of
from .request import Request


@dataclass(frozen=True)
class Prospect:
    """Keeps the globally highest |w_init * dL(w_M)/dw_init|, after M steps of training; see `prospr`."""

    inner_steps: int
    lr: float
    momentum: float
    fresh_batches: bool
    first_order: bool = False

    def __call__(self, network: Network) -> list[Tensor]:
        return network.largest([product.abs() for product in self.products(network)])

    def products(self, network: Network) -> list[Tensor]:
        """Returns w_init * dL(w_M)/dw_init of every weight to prune."""
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


@listed(
    "ProsPr",
    paper="Alizadeh et al., ICLR",
    year=2022,
    gradient="active weights; dense, through training steps, once beforehand",
    needs_batches=True,
)
def prospr(
    request: Request,
    *,
    inner_steps: int = 3,
    lr: float = 0.1,
    momentum: float = 0.0,
    fresh_batches: bool = True,
    batch_size: int = 512,
) -> Method:
    """ProsPr: Prospect Pruning, Finding Trainable Weights at Initialization using Meta-Gradients (Alizadeh et al., ICLR
    2022, arXiv 2202.08132).

    Keeps the globally largest |w * dL(w_M)/dw| of the initial weights w, where w_M is what M = `inner_steps` steps of
    SGD make of them (algorithm 1): how much a weight matters for the loss after some training. M = 0 is SNIP. The steps
    move every trainable Parameter, biases and batch norm's included; all of them, and the statistics of batch norm, are
    rewound before the training, which runs on the nonzeros.

    The derivative through the steps is exact, taken backwards by Hessian-vector products: v = dL/dw_M, z = 0, then for
    each step from the last, z <- momentum z - lr v, v <- v + H z. So the memory is that of one step, not of M.

    Batch norm uses the batch's statistics and is differentiated through them; dropout is off. The sum by which the
    paper divides (eq. 11) does not change the order. Where the official code differs from the paper, the paper is
    followed. The official library draws a batch for every step (`new_data_in_inner=True`, as here), while its command
    line lets one batch serve all steps and the final loss unless told otherwise (`fresh_batches=False` here). There a
    batch has 128 samples, and the first momentum buffer is cut off from differentiation, so that a momentum loses the
    first step's Hessian.

    Args:
        inner_steps: M, the training steps after which the loss is taken.
        lr, momentum: of the M steps, the official code's; the paper does not say. No weight decay.
        fresh_batches: every step and the final loss have a batch of their own, M + 1 in all; otherwise they share one.
        batch_size: samples in each, for the command line; otherwise the caller of `sparsify` sees to it.
    """
    counts = inner_steps >= 0 and batch_size >= 1
    request.check(counts, f"takes inner_steps >= 0 and batch_size >= 1, got {inner_steps} and {batch_size}")
    rates = 0 <= lr < inf and 0 <= momentum < 1
    request.check(rates, f"takes a finite lr >= 0 and momentum in [0, 1), got {lr} and {momentum}")
    batches = inner_steps + 1 if fresh_batches else 1
    start = Start(Prospect(inner_steps, lr, momentum, fresh_batches), batches, batch_size)
    return Method(request.name, constant(request.sparsity), start=start)


@variant_of(prospr, "ProsPr, first order")
def prospr_first_order(base: Method) -> Method:
    """Changes `prospr` (arXiv 2202.08132): no second derivatives; the globally largest |w_init * g| stay, g the
    gradient at w_M, after the steps."""
    return replace(base, start=base.start.rechosen(first_order=True))


@variant_of(prospr, "ProsPr, channels")
def prospr_channel(base: Method, *, min_per_layer: int = 0, initialize: Initialize = "rescale") -> Method:
    """Changes `prospr` (arXiv 2202.08132): whole output channels are removed, of which `sparsity` is the fraction.

    One gate c multiplies the weights of a channel; its score is |dL(w_M)/dc| = |sum_j w_j dL(w_M)/dw_j|, the sum inside
    the absolute value. Layers whose outputs are added share their gates, so that the sum runs over the rows of all of
    them. A depthwise convolution shares the gates of the channels that it reads: the sum runs over its rows, too. The
    n - floor(sparsity n) highest of the network's n gates stay. Outputs of the network have none, nor do channels that
    cannot be taken out: those of other grouped convolutions, those that reach an operation that mixes them (attention,
    layer norm), and those that a layer outside the pruning writes or reads. The model has to be one that `torch.fx`
    can trace.

    A channel is removed with all that belongs to it: the weights that write it, the weights that read it, its biases,
    and its shifts in batch norm, which are set to 0. Since nothing reads it, no gradient reaches what is set to 0, and
    it stays 0 under any optimizer; so `shrink` may take the channel out, before the training or after it. Weights and
    steps are otherwise as in `prospr`. The official library has a gate for each output row of every convolution and
    hidden linear layer, depthwise ones too, and does not tie those whose outputs are added.

    Args:
        min_per_layer: so many channels stay in each group of tied layers; otherwise one may lose all, with a warning.
        initialize: "rescale" multiplies the weights that stay by sqrt(fan-in / the fan-in that is left), so that
            outputs keep their scale; "keep" leaves them as they are, as in the paper, whose networks have batch norm.
    """
    choose = partial(_channels, cast(Prospect, base.start.choose), base.sparsity(0))
    view = replace(base.view, min_per_layer=min_per_layer)
    return replace(base, start=replace(base.start, choose=choose, unit="channel", initialize=initialize), view=view)


def _channels(prospect: Prospect, sparsity: float, network: Network) -> list[Tensor]:
    groups = removable_groups(network)
    gates = gate_sums(network, groups, prospect.products(network))
    return highest_channels(network, groups, [gate.abs() for gate in gates], sparsity)

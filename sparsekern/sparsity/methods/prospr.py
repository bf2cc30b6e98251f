"""Prospect Pruning (Alizadeh et al., ICLR 2022): weights scored by their effect on the first steps of training."""

from itertools import islice

from torch import Tensor

from ..method import Method
from ..objective import Objective, meta_gradient
from ..schedules import constant
from ..starts import Network, Start, scoring
from .registry import Entry, listed


def _entry(title: str) -> Entry:
    paper = "Alizadeh, Tailor, Zintgraf, van Amersfoort, Farquhar, Lane, Gal, ICLR"
    gradient = "dense, through training steps, once before"
    return Entry(title, paper, 2022, "nonzeros", "never", gradient, needs_batches=True)


def _start(
    name: str,
    inner_steps: int,
    lr: float,
    momentum: float,
    fresh_batches: bool,
    batch_size: int,
    *,
    first_order: bool = False,
) -> Start:
    if inner_steps < 0 or batch_size < 1:
        raise ValueError(f"{name} takes inner_steps >= 0 and batch_size >= 1, got {inner_steps} and {batch_size}")
    if not lr >= 0 or not 0 <= momentum < 1:
        raise ValueError(f"{name} takes lr >= 0 and momentum in [0, 1), got {lr} and {momentum}")

    def products(network: Network) -> list[Tensor]:
        """w_init * dL(w_M)/dw_init of every weight to prune."""
        batches = list(islice(network.batches, inner_steps + 1 if fresh_batches else 1))
        with scoring(network.model):
            parameters = list(network.model.parameters())
            rates = [lr if parameter.requires_grad else 0.0 for parameter in parameters]
            gradients = meta_gradient(
                Objective(network.model, network.loss),
                parameters,
                batches if fresh_batches else batches * (inner_steps + 1),
                rates,
                momentum,
                first_order=first_order,
            )
        place = {id(parameter): i for i, parameter in enumerate(parameters)}
        return [weight.detach() * gradients[place[id(weight)]] for weight in network.weights]

    def choose(network: Network) -> list[Tensor]:
        return network.largest([product.abs() for product in products(network)])

    return Start(name, choose, inner_steps + 1 if fresh_batches else 1, batch_size)


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
    followed: there one batch serves all steps and the final loss unless told otherwise (`fresh_batches=False`), the
    last loss is taken on 128 samples, and the first momentum buffer is cut off from differentiation, so that a momentum
    loses the first step's Hessian.

    Args:
        inner_steps: M.
        lr, momentum: of the M steps, the official code's; the paper does not say. No weight decay.
        fresh_batches: every step and the final loss have a batch of their own, M + 1 in all; otherwise they share one.
        batch_size: samples in each, for the command line; otherwise the caller of `sparsify` sees to it.
    """
    start = _start("prospr", inner_steps, lr, momentum, fresh_batches, batch_size)
    return Method("prospr", constant(sparsity), start=start)


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
    start = _start("prospr_first_order", inner_steps, lr, momentum, fresh_batches, batch_size, first_order=True)
    return Method("prospr_first_order", constant(sparsity), start=start)

"""SynFlow (Tanaka et al., NeurIPS 2020): the synaptic flow through a weight, found without data."""

from functools import partial

import torch
from torch import Tensor

from ..method import Method
from ..model.inputs import Arguments, arguments
from ..parts.schedules import constant
from ..scoring.linearised import Linearised, copied_layers, linearised, total_flow
from ..scoring.network import Network
from ..scoring.start import Start
from .registry import listed
from .request import Request


@listed(
    "SynFlow",
    paper="Tanaka, Kunin, Yamins, Ganguli, NeurIPS",
    year=2020,
    gradient="active weights; dense, of the linearised network, in every round beforehand",
    needs_batches=True,
)
def synflow(request: Request, *, rounds: int = 100) -> Method:
    """SynFlow: Pruning neural networks without any data by iteratively conserving synaptic flow (Tanaka et al.,
    NeurIPS 2020, arXiv 2006.05467).

    R is the sum of the outputs for an input of ones (of token ids: for all entries of an embedding at once), with
    absolute weights, without biases and activations, batch norm in evaluation mode, in float64. In each of `rounds`
    rounds the globally largest |w * dR/dw| of what is left stay, fewer in each: a density of density^(i / rounds) in
    round i. In a plain chain of layers the scores of each layer sum to R, so that none is emptied before the others.

    Of the batches it takes the shape of the first input, and no `loss`. Differences from the official code, which keeps
    absolute biases, and prunes every weight whose score equals the threshold's: here the count is exact in each round
    and what is pruned stays pruned.

    Args:
        rounds: how many times weights are removed, 100 in the paper.
    """
    request.check(rounds >= 1, f"takes rounds >= 1, got {rounds}")
    start = Start(partial(_choose, rounds), batches=1, needs_loss=False)
    return Method(request.name, constant(request.sparsity), start=start)


def _choose(rounds: int, network: Network) -> list[Tensor]:
    inputs = arguments(network.batches[0][0]).first(1)
    net = linearised(network.model)
    layers = copied_layers(network.model, net.module, list(network.layers.values()))
    weights: list[Tensor] = [layer.get_parameter("weight").requires_grad_() for layer in layers]
    masks = [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
    for i in range(1, rounds + 1):
        scores = flow_scores(net, weights, inputs)
        left = [score.masked_fill(~mask, -torch.inf) for score, mask in zip(scores, masks, strict=True)]
        masks = network.after(i / rounds).largest(left)
        with torch.no_grad():
            for weight, mask in zip(weights, masks, strict=True):
                weight.mul_(mask)
    return masks


def flow_scores(net: Linearised, weights: list[Tensor], inputs: Arguments) -> list[Tensor]:
    """Returns |w * dR/dw| of each of `weights`, which a linearised network `net` holds; R is the sum of its outputs.

    Raises:
        ValueError: R exceeds the range of float64.
    """
    with torch.enable_grad():
        flow = total_flow(net, inputs)
    if not flow.isfinite():
        raise ValueError(f"the flow through the absolute weights exceeds the range of float64: {flow.item()}")
    gradients = torch.autograd.grad(flow, weights, materialize_grads=True)
    return [(weight * gradient).detach().abs() for weight, gradient in zip(weights, gradients, strict=True)]

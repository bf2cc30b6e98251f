"""Channels that are taken out before training: by their saliency per operation, or by chance."""

from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from ..method import Method
from ..parts import views
from ..parts.distributions import apportion
from ..parts.schedules import constant
from ..scoring.channels import costs, highest_channels, left_of, read_sums, removable_groups, without_channels
from ..scoring.network import Network, mean_gradient
from ..scoring.start import Initialize, Start
from .registry import listed
from .request import Request, check_choice

Variant = Literal["plain", "reinit", "rescale"]
INITIALIZE: dict[Variant, Initialize] = {"plain": "keep", "reinit": "evci", "rescale": "rescale"}


@listed(
    "3SP, channels",
    paper="van Amersfoort, Alizadeh, Farquhar, Lane, Gal, arXiv 2007.00389",
    year=2020,
    gradient="active weights; dense once, beforehand",
    needs_batches=True,
)
def three_sp(request: Request, *, variant: Variant = "rescale", batches: int = 1, min_per_layer: int = 0) -> Method:
    """3SP: Single Shot Structured Pruning Before Training (van Amersfoort et al. 2020, arXiv 2007.00389): `sparsity`
    is the fraction of channels removed.

    A gate c = 1 multiplies each channel where it is read, behind batch norm and activation (before batch norm its
    derivative would be 0); its saliency |dL/dc| = |sum_j w_j dL/dw_j|, over the weights that read the channel, is
    divided by the multiplications that go with the channel, those that write it and those that read it, in the dense
    network. The n - floor(sparsity n) channels with the highest saliency per operation stay. The gradient is the mean
    over the batches that `sparsify` is given, the paper's single one if there is one.

    Which channels can be removed, and what goes with them, is as in `prospr_channel`: layers whose outputs are added
    share their gates. There is no official code; where the gates stand, and which operations count, is a reading of the
    paper's "sensitivity per FLOP removed".

    Args:
        variant: "rescale" multiplies the weights that were scored by sqrt(fan-in / the fan-in that is left), without
            which activations fade in a network without batch norm; "plain" trains them as they are; "reinit" draws new
            ones with variance 2 / the fan-in that is left. The paper has the three.
        batches: how many to take on the command line.
        min_per_layer: so many channels stay in each group of tied layers.
    """
    request.check(batches >= 1, f"takes batches >= 1, got {batches}")
    check_choice("variant", variant, get_args(Variant))
    choose = partial(_most_salient, request.sparsity)
    return Method(
        request.name,
        constant(request.sparsity),
        start=Start(choose, batches, unit="channel", initialize=INITIALIZE[variant]),
        view=replace(views.network, min_per_layer=min_per_layer),
    )


def _most_salient(sparsity: float, network: Network) -> list[Tensor]:
    groups, weights = removable_groups(network), network.weights
    gradients = mean_gradient(network.model, weights, network.batches, network.loss)
    gates = read_sums(network, groups, [w.detach() * g for w, g in zip(weights, gradients, strict=True)])
    scores = [gate.abs() / max(1, cost) for gate, cost in zip(gates, costs(network, groups), strict=True)]
    return highest_channels(network, groups, scores, sparsity)


@listed("Random channels", needs_batches=True)
def random_channel(request: Request, *, min_per_layer: int = 0, initialize: Initialize = "rescale") -> Method:
    """Removes channels by chance: the fraction `sparsity` of those of each group of tied layers, so that
    n - floor(sparsity n) of n stay in all. Which channels can be removed, and what goes with them, is as in
    `prospr_channel`. Of the batches it takes the first input, to trace the model with, and no `loss`.

    Args:
        min_per_layer: so many channels stay in each group of tied layers; the others share what is left.
        initialize: "rescale" multiplies weights by sqrt(fan-in / the fan-in that is left), "keep" leaves them.
    """
    choose = partial(_any, request.sparsity)
    start = Start(choose, batches=1, needs_loss=False, unit="channel", initialize=initialize)
    view = replace(views.network, min_per_layer=min_per_layer)
    return Method(request.name, constant(request.sparsity), start=start, view=view)


def _any(sparsity: float, network: Network) -> list[Tensor]:
    groups = removable_groups(network)
    least = [min(network.view.min_per_layer, group.size) for group in groups]
    free = [group.size - n for group, n in zip(groups, least, strict=True)]
    more = apportion(free, free, left_of(network, groups, sparsity) - sum(least))
    draws = [torch.rand(group.size, generator=network.generator) for group in groups]
    marks = views.layer.largest(draws, [n + m for n, m in zip(least, more, strict=True)])
    return without_channels(network, [(group, ~mark) for group, mark in zip(groups, marks, strict=True)])

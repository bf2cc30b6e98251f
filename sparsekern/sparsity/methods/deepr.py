"""Deep Rewiring: Training very sparse deep networks (Bellec, Kappel, Maass, Legenstein, ICLR 2018)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import ops
from .. import growth
from ..method import Method
from ..parts import views
from ..parts.distributions import Distribution
from ..parts.schedules import Cadence, constant
from ..rule import Rule
from ..scoring.start import drawn
from ..sites.layer_site import LayerSite
from ..sites.nonzeros import NonzerosSite
from .registry import listed
from .request import Request


@dataclass(frozen=True)
class FixedSigns(Rule):
    """Keeps active weights w = sign theta with theta >= 0. The sign is that of the weight; one of value 0 draws it in
    its first step."""

    l1: float
    noise: float

    def after_backward(self, site: LayerSite, step: int, lr: float) -> None:
        site.tracked["sign"] = site.weight.sign().to(torch.int8)

    def after_step(self, site: LayerSite, step: int, lr: float, generator: torch.Generator) -> None:
        weight, sign = site.weight, site.tracked["sign"]
        drawn = 2 * torch.randint(2, sign.shape, generator=generator, dtype=torch.int8) - 1
        sign.copy_(torch.where(sign == 0, drawn.to(sign.device), sign))
        walk = self.noise * torch.randn(weight.shape, generator=generator).to(weight) - self.l1
        site.write(weight.add_(lr * sign * walk))

    def exchange(self, sites: Sequence[NonzerosSite], step: int) -> list[tuple[Tensor, int]]:
        stays = [site.weight * site.tracked.pop("sign", site.weight) >= 0 for site in sites]
        kept = ops.host.counts(stays)
        return [(keep, keep.numel() - n) for keep, n in zip(stays, kept, strict=True)]


@listed("DeepR", paper="Bellec, Kappel, Maass, Legenstein, ICLR", year=2018, changes="every step")
def deepr(
    request: Request,
    *,
    l1: float = 1e-5,
    noise: float = 1e-5,
    share: str | Distribution = "er",
    initialize: str = "rescale",
) -> Method:
    """DeepR: Deep Rewiring, Training very sparse deep networks (Bellec et al., ICLR 2018, arXiv 1711.05136). Weights
    that would change their sign make way for others, drawn at random.

    An active weight is w = s theta with a fixed sign s and theta >= 0. In every step, after the optimizer's,
    theta <- theta - lr l1 + lr noise nu with nu ~ N(0, 1); then each layer drops the weights with theta < 0 and grows
    as many, every absent weight (those just dropped included) equally likely, at theta = 0 with a random sign. So each
    layer keeps its number of weights, and what grows has a fresh optimizer state.

    The paper's noise is sqrt(2 lr T) nu; the form and the defaults here are those of the official scripts. Of these,
    the dense one gives every position a sign for ever, the sparse one draws a new sign at every return, without
    excluding that two connections share a position: here signs are drawn, positions distinct. The scripts start theta
    at 1e-12 or 0 and count theta = 0 as dormant; here such a weight lives until its theta is negative. They take plain
    gradient descent; with another optimizer its own step comes first and l1 and the noise are added to it.

    Args:
        l1: alpha, what a step takes from every theta, in units of the learning rate.
        noise: standard deviation of the noise, in units of the learning rate.
        share: how the layers share the weights: "er" (SET), "erk", "uniform"; the scripts set each layer by hand.
        initialize: "rescale" multiplies the weights of the model by sqrt(dense fan-in / fan-in) of their row, so that
            outputs keep their scale; "keep" takes them as they are, as the scripts do; "fan_in" draws new ones.
    """
    request.check(l1 >= 0 and noise >= 0, f"takes l1 and noise of at least 0, got {l1} and {noise}")
    return Method(
        request.name,
        constant(request.sparsity),
        request.often(Cadence(1, start=0)),
        start=drawn(share, initialize),
        view=views.layer,
        grow=growth.uniform(),
        rule=FixedSigns(l1, noise),
    )

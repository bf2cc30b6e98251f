"""Optimizing Gradient-driven Criteria in Network Sparsity: Gradient is All You Need (Zhang et al.)."""

from dataclasses import replace

import torch
from torch import Tensor

from ... import ops
from ...ops.shapes import accumulate_dtype
from ..method import Method
from ..parts import scores, views
from ..parts.distributions import by_name
from ..parts.schedules import Cadence, Schedule, late, sigmoid
from ..rule import Rule
from ..sites.layer_site import LayerSite
from .registry import listed
from .request import Request, check


class ScoreOptimizer(Rule):
    """Optimizes the scores q by SGD with momentum and gradient G * w at every entry, where G is the gradient of
    the masked weight. Then the weight's own gradient becomes m * G."""

    def __init__(self, progress: Schedule, momentum: float) -> None:
        self.progress, self.momentum = progress, momentum

    def begin(self, site: LayerSite) -> dict[str, Tensor]:
        weight = site.parameter
        dtype = accumulate_dtype(weight.dtype)
        score = torch.zeros(site.shape, dtype=dtype, device=weight.device)
        return {"score": score, "momentum": score.clone()}

    def after_backward(self, site: LayerSite, step: int, lr: float) -> None:
        gradient = site.grad
        if gradient is None:
            return
        ops.score_step(
            site.tracked["score"],
            site.tracked["momentum"],
            gradient,
            site.weight,
            site.active.row_ptr,
            site.active.col,
            lr=lr * self.progress(step),
            momentum=self.momentum,
        )
        site.write_gradient(gradient)


@listed(
    "OptG",
    paper="Zhang et al., arXiv 2201.12826",
    year=2022,
    storage="dense weights and optimizer state, two numbers for each weight",
    changes="every epoch",
    gradient="dense",
)
def optg(
    request: Request,
    *,
    every: int | None = None,
    steepness: float | None = None,
    momentum: float = 0.9,
    share: str = "global",
) -> Method:
    """OptG: Optimizing Gradient-driven Criteria in Network Sparsity, Gradient is All You Need (Zhang et al. 2022, arXiv
    2201.12826). Scores accumulate -dL/dw * w, the supermask's gradient, while the weights train.

    In epoch k of tau the sparsity is P_k = s / (1 + exp(-alpha (k - tau / 2))); at its start the weights of the
    smallest scores q are masked, over the network. In each step, with G the dense gradient of the masked weight m w:
    q <- SGD(q, G w) at every entry, with momentum, no decay, and learning rate lr P_k / s; and w <- opt(w, m G). So a
    pruned weight keeps its value (but for the optimizer's weight decay and momentum) and its score goes on learning;
    a revived one goes on from there. The signs are those of eq. 10 and of the code; parts of the text have them
    reversed. All linear layers and convolutions are pruned, the classifier too. In epoch 0 all scores are 0 and nothing
    is pruned, whatever P_0: so does the official code, whose comparison with the threshold is strict.

    Args:
        every: steps between masks, by default an epoch, as in the paper; "epoch" above means so many steps. Where an
            epoch has few of them, take more, so that the network recovers from a mask.
        steepness: alpha. The paper sets 0.5 in all its experiments, of 100, 160 and 180 epochs (its configurations have
            1); the default here is 80 / tau, which is 0.5 at 160 epochs and steeper in shorter runs, where 0.5 would
            stop short of s: after 10 epochs the formula has reached 0.92 s. In the last epoch the sparsity is exactly
            s, which the formula only approaches.
        momentum: that of the scores' SGD.
        share: "global" compares scores over the network; "uniform" and "erk" fix the layers' sparsities (the paper's
            ablations).
    """
    request.check(every is None or every >= 1, f"takes every >= 1, got {every}")
    steps, period = request.steps, request.epoch if every is None else every
    epochs = max(1, round(steps / period))
    request.check(epochs >= 2, f"prunes at the start of every epoch but the first, so a run needs two, got {epochs}")
    check(steepness is None or steepness > 0, f"steepness must be above 0, got {steepness}")
    check(0 <= momentum < 1, f"momentum must lie in [0, 1), got {momentum}")
    alpha = 80 / epochs if steepness is None else steepness
    return Method(
        request.name,
        late(sigmoid(request.sparsity, epochs, alpha, period), period),
        request.often(Cadence(period, stop=steps - 1)),
        storage="master",
        drop=scores.tracked("score"),
        view=views.network if share == "global" else replace(views.layer, share=by_name(share)),
        rule=ScoreOptimizer(sigmoid(1.0, epochs, alpha, period), momentum),
    )

"""Dynamic Pruning of a Neural Network via Gradient Signal-to-Noise Ratio (Siems, Klein, Archambeau, Mahsereci)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from ... import ops
from ...ops.shapes import accumulate_dtype
from ..method import Method
from ..parts import scopes
from ..parts.schedules import Cadence, constant
from ..rule import Gradient, Rule
from ..scoring.start import Start
from ..sites.layer_site import LayerSite
from .registry import listed, variant_of
from .request import Request, check, check_choice

Criterion = Literal["both", "snr", "magnitude"]
Hold = Literal["best", "last", "never"]
# A weight that a single sample of the batch moves has a ratio of exactly 1: rounding is not to decide on its mask.
ROUNDING = 1e-5


@dataclass(frozen=True)
class SignalToNoise(Rule):
    """Follows r, the running signal-to-noise ratio of every weight's gradient, and makes masks of it."""

    decay: float
    refresh: int
    criterion: Criterion
    hold: Hold
    unprune: bool
    steps_per_epoch: int | None = None

    @property
    def epoch(self) -> int | None:  # type: ignore[override]
        return None if self.hold == "never" else self.steps_per_epoch

    def gradient(self, step: int) -> Gradient:
        return "dense" if step % self.refresh else "moment"

    def begin(self, site: LayerSite) -> dict[str, Tensor]:
        weight = site.parameter
        dtype = accumulate_dtype(weight.dtype)
        zeros = torch.zeros(site.shape, dtype=dtype, device=weight.device)
        return {"ratio": zeros, "updates": torch.zeros((), dtype=torch.int64)}

    def after_backward(self, site: LayerSite, step: int, lr: float) -> None:
        if self.gradient(step) == "moment" and not site.missed:
            gradient, moment, samples = site.gradient_and_moment()
            first = not site.tracked["updates"]
            ratio = site.tracked["ratio"]
            moment = moment.to(ratio.dtype)  # another one if the model was converted after the optimizer was built
            ops.snr_update(ratio, gradient, moment, samples, self.decay**self.refresh, first)
            site.tracked["updates"] += 1

    def masks(self, sites: Sequence[LayerSite], step: int, losses: Sequence[float]) -> list[Tensor]:
        frozen = self.frozen(losses)
        if frozen and not self.unprune:
            return []
        informative = [site.tracked["ratio"] > 1 + ROUNDING for site in sites]
        kept = self._counted(informative, sites)
        large = ops.topk_mask([site.weight for site in sites], sum(kept), True)
        for site, *counts in zip(sites, kept, ops.host.counts(large), strict=True):
            by_snr, by_magnitude = (1 - count / max(1, site.size) for count in counts)
            site.facts = {"snr_sparsity": by_snr, "magnitude_sparsity": by_magnitude}
        if self.criterion == "both":
            masks = [b.bitwise_or_(a) for a, b in zip(informative, large, strict=True)]
        else:
            masks = informative if self.criterion == "snr" else large
        return [mask | site.active.mask() for mask, site in zip(masks, sites, strict=True)] if frozen else masks

    def _counted(self, masks: Sequence[Tensor], sites: Sequence[LayerSite]) -> list[int]:
        """Returns how many weights each mask keeps; refuses an altered gradient, learned with the same transfer."""
        doubtful = [(site, site.altered) for site in sites if site.altered is not None]
        told = ops.host.read_ints([*map(ops.host.count, masks), *(altered for _, altered in doubtful)])
        for (site, _), altered in zip(doubtful, told[len(masks) :], strict=True):
            if altered:
                site.refuse_gradient()
        return told[: len(masks)]

    def frozen(self, losses: Sequence[float]) -> bool:
        """Returns whether the masks are frozen, given the mean training losses of the epochs so far."""
        before = [loss for loss in losses[:-1] if loss == loss]  # one of NaN is nothing to be held against
        if self.hold == "never" or not before:
            return False
        return not losses[-1] <= (min(before) if self.hold == "best" else before[-1])


@listed(
    "SNR pruning",
    minimum=False,
    paper="Siems, Klein, Archambeau, Mahsereci, ICML workshop",
    year=2021,
    storage="dense weights and optimizer state, one number for each weight",
    changes="every step after an epoch",
    gradient="dense, and its second moment over samples",
    sparsity=None,
)
def snr(
    request: Request,
    *,
    criterion: Criterion = "both",
    memory: float = 0.02,
    burn_in: int = 1,
    every: int = 1,
    hold: Hold = "best",
    unprune: bool = False,
    refresh: int = 1,
    include_classifier: bool = False,
) -> Method:
    """SNR: Dynamic Pruning of a Neural Network via Gradient Signal-to-Noise Ratio (Siems, Klein, Archambeau and
    Mahsereci, ICML workshop on automated machine learning 2021). Prunes weights that are small and whose gradient is
    noise; the sparsity emerges, `sparsity` is not used.

    With a_n the share of sample n in the gradient of a weight at the masked weights, G = sum a_n and S = sum a_n^2 over
    the B >= 2 samples of a batch, snr = G^2 (B - 1) / max(B S - G^2, 0), and r <- gamma r + (1 - gamma) snr. The mask
    keeps a weight if r > 1 or if it is among the largest |w| of the network, as many as there are r > 1: it is pruned
    only if both agree. All weights go on learning by the dense gradient (as in `dpf`). All linear layers and
    convolutions but the last linear layer are pruned, which the paper leaves open. In batch norm, whose samples are
    coupled, a_n is what row n of the batch contributes, given the gradients of its outputs. The samples of a layer run
    along the first dimension of its input. A gradient may be scaled (`GradScaler`) or clipped by its norm before the
    step; one that was clipped by value, or holds that of a penalty in the loss, is refused, since S is not of it.

    The paper's (0.01)^-m for gamma exceeds 1; gamma solves gamma^m = 0.01. Its algorithm joins the masks of what is
    kept by "and", its text those of what is pruned: the text is followed. Weight decay is the optimizer's and no part
    of the gradient. r > 1 means by more than rounding, 1e-5: where one sample alone has a gradient, snr is exactly 1.
    No code of the authors was found.

    Args:
        criterion: "both", or "snr" or "magnitude" alone (figure 3).
        memory: r_m, the fraction of the run after which r has forgotten 99 %: m = r_m T.
        burn_in: epochs without pruning.
        every: p, steps between masks.
        hold: the masks are frozen while the last epoch's training loss is above the "best" or the "last" before it;
            "never". Tell the epoch's loss by `Sparsifier.epoch_end`.
        unprune: while the masks are frozen, weights may still return to them.
        refresh: r is updated every so many steps, with gamma to that power: cheaper, and not in the paper.
        include_classifier: prune the last linear layer, too.
    """
    steps, period = request.steps, request.epoch
    check_choice("criterion", criterion, get_args(Criterion))
    check_choice("hold", hold, get_args(Hold))
    check(0 < memory <= 1, f"memory must be a fraction of the run in (0, 1], got {memory}")
    rates = f"burn_in must be at least 0 and refresh at least 1, got {burn_in} and {refresh}"
    check(burn_in >= 0 and refresh >= 1, rates)
    request.emerges()
    if refresh > 1:
        request.note(f"r is refreshed every {refresh} steps, which the paper does not do")
    return Method(
        request.name,
        constant(0.0),
        request.often(Cadence(every, start=burn_in * period + 1)),
        storage="master",
        start=Start(scope=scopes.everything if include_classifier else scopes.without_classifier),
        rule=SignalToNoise(0.01 ** (1 / (memory * steps)), refresh, criterion, hold, unprune, period),
    )


@variant_of(
    snr,
    "SNR pruning, pruned weights frozen",
    storage="nonzeros; pruned weights with their state aside, one number for each weight",
)
def snr_frozen(base: Method) -> Method:
    """Changes `snr`: pruned weights are frozen (section 5.3). No gradient, decay or moment of the optimizer moves them,
    while their r goes on. A weight that returns has the value and the optimizer state that it had. That it returns when
    r rises above 1 is our reading: the section states the condition for pruning only."""
    return replace(base, storage="stashed")

"""Weights scored by how their removal changes the gradient flow (Wang et al., ICLR 2020), and what followed it."""

from dataclasses import dataclass, replace

from torch import Tensor

from ..method import Method
from ..model.inputs import divided
from ..parts import scores
from ..parts.schedules import constant
from ..parts.scores import Score, Scored
from ..scoring.network import Network, scoring
from ..scoring.objective import Objective, curvature
from ..scoring.start import Initialize, Start
from .registry import listed, variant_of
from .request import Request


@dataclass(frozen=True)
class GradientFlow:
    """Keeps the globally highest `score(w, H g)`; the temperature divides the logits."""

    temperature: float
    score: Score = scores.product

    def __call__(self, network: Network) -> list[Tensor]:
        weights, loss = network.weights, network.loss
        with scoring(network.model):
            objective = Objective(
                network.model, lambda output, target: loss(divided(output, self.temperature), target), weights
            )
            products = curvature(objective, weights, network.batches)
        return network.largest([self.score(Scored(w.detach(), p)) for w, p in zip(weights, products, strict=True)])


@listed(
    "GraSP",
    paper="Wang, Zhang, Grosse, ICLR",
    year=2020,
    gradient="active weights; dense, differentiated twice, once beforehand",
    needs_batches=True,
)
def grasp(
    request: Request,
    *,
    batches: int = 2,
    per_class: int | None = None,
    temperature: float = 200.0,
    initialize: Initialize = "evci",
) -> Method:
    """GraSP: Picking Winning Tickets Before Training by Preserving Gradient Flow (Wang et al., ICLR 2020,
    arXiv 2002.07376).

    Removes the globally largest S = -w * H g of the initial weights: g is the gradient of the loss by all
    weights to prune, H their Hessian. Removing w changes g'g by 2 S to first order, so what stays, with its sign,
    keeps the gradient flow highest. g and H are summed over the batches, g is a constant; H g is a derivative of the
    gradient, a batch at a time. Batch norm uses the batch's statistics, dropout is off.

    The official code takes as many samples of each class, 25 if not told otherwise and 10 in most of its recipes, in
    two halves of half the classes each; batches are the caller's, and the command line takes random ones of the
    training's size or, by `per_class`, as many of each class in every batch. It scores a copy whose linear layers have
    new weights, here the initial weights are scored; it divides the scores by their sum, which does not change their
    order; and it keeps all weights whose score equals the threshold's, where here the count is exact.

    Args:
        batches: how many to take on the command line; GraSP splits its samples into two, more are GRASP-MB. All that
            `sparsify` is given count.
        per_class: samples of each class that the command line spreads over the batches, 25 in the official code; None:
            batches of the training.
        temperature: divides the logits before the loss, 200 in the official code; the paper does not say. Of an output
            that is no tensor every floating-point tensor is divided.
        initialize: "evci" draws new weights for the pattern, with variance 2 / fan-in of the row; "keep" trains the
            weights that were scored, as in the paper. Those that stay mostly push the same way, and without batch norm
            the activations grow from layer to layer until the training diverges.
    """
    request.check(batches >= 1, f"takes batches >= 1, got {batches}")
    request.check(temperature > 0, f"takes temperature > 0, got {temperature}")
    request.check(per_class is None or per_class >= 1, f"takes per_class >= 1, got {per_class}")
    start = Start(GradientFlow(temperature), batches, per_class=per_class, initialize=initialize)
    return Method(request.name, constant(request.sparsity), start=start)


@variant_of(grasp, "Magnitude of GraSP", paper="Frankle, Dziugaite, Roy, Carbin, ICLR", year=2021)
def grasp_abs(base: Method, *, initialize: Initialize = "keep") -> Method:
    """GraSP by absolute value: Pruning Neural Networks at Initialization, Why Are We Missing the Mark? (Frankle et al.,
    ICLR 2021, arXiv 2009.08576).

    Keeps the globally largest |w * H g| of the initial weights: g is the gradient of the loss by all weights to prune,
    H their Hessian. Removing w changes g'g by -2 w (H g) to first order; `grasp` keeps the weights whose removal lowers
    it most, here the size of the change counts, not its sign. The rest, and what differs from GraSP's official code, is
    as there.

    Args:
        batches, per_class: as in `grasp`.
        temperature: divides the logits before the loss: 200 in GraSP's code, whose recipe Frankle et al. keep.
        initialize: "keep" trains the weights that were scored; "evci" draws new ones, as in `grasp`.
    """
    return replace(base, start=base.start.rechosen(score=scores.saliency))


@variant_of(grasp_abs, "|GraSP|", paper="Lubana, Dick, ICLR")
def grasp_magnitude(base: Method, *, temperature: float = 1.0) -> Method:
    """|GraSP|: A Gradient Flow Framework For Analyzing Network Pruning (Lubana and Dick, ICLR 2021, arXiv
    2009.11839).

    `grasp_abs` without a temperature: keeps the globally largest |w * H g|, what changes the gradient flow most in
    either direction. The official code scores whole filters, summing w * H g before it takes the absolute value, in
    evaluation mode, with one batch for each class, and prunes in rounds while training begins; here, as in GraSP,
    weights, once, before training, with the batch's statistics.

    Args:
        batches, per_class, initialize: as in `grasp_abs`.
        temperature: as there; the paper argues for 1.
    """
    return base

"""Weights scored by how their removal changes the gradient flow (Wang et al., ICLR 2020), and what followed it."""

from functools import partial

from torch import Tensor

from .. import scores
from ..method import Method
from ..objective import Objective, curvature
from ..schedules import constant
from ..scores import Score
from ..starts import Network, Start, scoring
from .registry import Entry, listed


def _start(name: str, score: Score, batches: int, temperature: float) -> Start:
    """The globally highest `score(w, Hg)`."""
    if batches < 1 or not temperature > 0:
        raise ValueError(f"{name} takes batches >= 1 and temperature > 0, got {batches} and {temperature}")
    return Start(name, partial(_choose, score, temperature), batches)


def _choose(score: Score, temperature: float, network: Network) -> list[Tensor]:
    weights = network.weights
    with scoring(network.model):
        loss = network.loss
        objective = Objective(network.model, lambda output, target: loss(output / temperature, target), weights)
        products = curvature(objective, weights, network.batches)
    return network.largest([score(w.detach(), product) for w, product in zip(weights, products, strict=True)])


@listed(
    Entry(
        "Magnitude of GraSP",
        "Frankle, Dziugaite, Roy, Carbin, ICLR",
        2021,
        storage="nonzeros",
        changes="never",
        gradient="dense, twice differentiated, once before",
        needs_batches=True,
    )
)
def grasp_abs(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    batches: int = 2,
    temperature: float = 200.0,
) -> Method:
    """GraSP by absolute value (Frankle et al., Pruning Neural Networks at Initialization, ICLR 2021).

    Keeps the globally largest |w * H g| of the initial weights: g is the gradient of the loss by all weights to prune,
    H their Hessian. Removing w changes g'g by -2 w (H g) to first order; GraSP (Wang et al., ICLR 2020) keeps the
    weights whose removal lowers it most, here the size of the change counts, not its sign. g and H are summed over the
    batches, g is a constant; H g is a derivative of the gradient, a batch at a time. Batch norm uses the batch's
    statistics, dropout is off.

    Differences from GraSP's official code: the weights that were scored are the ones that train, where it draws new
    ones for the linear layers of its copy; and the batches are those that `sparsify` is given, from the command line
    random ones of the training's size, where it takes as many samples of each class.

    Args:
        batches: how many to take on the command line; GraSP splits its samples into two. All that `sparsify` is given
            count.
        temperature: divides the logits before the loss: 200 in GraSP's code, whose recipe Frankle et al. keep; with 1
            it is the |GraSP| of Lubana and Dick (ICLR 2021).
    """
    return Method("grasp_abs", constant(sparsity), start=_start("grasp_abs", scores.saliency, batches, temperature))

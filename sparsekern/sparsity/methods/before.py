"""Patterns that are chosen before training and stay."""

from dataclasses import replace

from ..method import Method
from ..parts import scopes, scores
from ..parts.distributions import Distribution
from ..parts.schedules import constant
from ..parts.scopes import Scope
from ..scoring.start import RANDOM, drawn, elementwise
from .registry import ALL, listed, variant_of
from .request import Request, check


@listed("No pruning", storage="dense weights and optimizer state", gradient="dense", sparsity=0.0, minimum=False)
def dense(request: Request) -> Method:
    """Leaves the network dense: the reference of every comparison. `sparsity` is ignored."""
    return Method(request.name, constant(0.0), storage="dense")


def fixed() -> Method:
    """Keeps the pattern of the masks that `sparsify` is given, or of the zeros of the model:

    >>> pruned = torch.nn.utils.prune.l1_unstructured(model[0], "weight", amount=0.7)
    >>> model = sk.sparsify(model, sk.methods.fixed(), masks="nonzero")  # the same as without a method

    Fine-tuning needs no `Sparsifier` then: the zeros are not there to be trained. With one it has reports, followers
    and checkpoints as other methods have.
    """
    return Method("fixed", constant(0.0), start=replace(RANDOM, given=True))


@listed("Random pattern", structures=ALL)
def random(request: Request, *, share: str | Distribution = "uniform", initialize: str = "rescale") -> Method:
    """Draws a static random pattern, exactly G(n, M) in each layer.

    Args:
        share: how the weights are shared by the layers: "uniform", "er", "erk", "global".
        initialize: "rescale" multiplies the weights of the model by sqrt(dense fan-in / fan-in) of their row, so that
            outputs keep their scale; "keep" takes them as they are; "fan_in" draws new ones, as `gse_*` do.
    """
    return Method(request.name, constant(request.sparsity), start=drawn(share, initialize))


@listed("Magnitude at initialisation", structures=ALL)
def magnitude_init(request: Request) -> Method:
    """Keeps the globally largest |w| of the initial weights, a static pattern."""
    return Method(request.name, constant(request.sparsity), start=elementwise(scores.magnitude))


@listed(
    "SNIP",
    paper="Lee, Ajanthan, Torr, ICLR",
    year=2019,
    gradient="active weights; dense once, beforehand",
    needs_batches=True,
    structures=ALL,
)
def snip(request: Request, *, scope: str | Scope = "everything") -> Method:
    """SNIP: Single-shot Network Pruning based on Connection Sensitivity (Lee et al., ICLR 2019, arXiv 1810.02340).

    Keeps the globally largest |w * dL/dw| of the initial weights; the gradient is the mean over the batches given to
    `sparsify`, the paper's single batch if there is one (`snip_mb` asks for more). The paper's normalisation by the sum
    does not change the order and is left out. The weights that were scored are the ones that train (some
    reimplementations score another initialisation).

    Args:
        scope: the layers to prune: "everything", "without_classifier", or "convolutions" (the DPF paper's).
    """
    start = elementwise(scores.saliency, 1, scopes.by_name(scope))
    return Method(request.name, constant(request.sparsity), start=start)


@variant_of(snip, "SNIP over several batches", paper="de Jorge et al., ICLR", year=2021)
def snip_mb(base: Method, *, batches: int = 40) -> Method:
    """SNIP-MB: `snip` with the gradient averaged over several batches, |w * mean dL/dw| (de Jorge et al., Progressive
    Skeletonization, ICLR 2021, arXiv 2006.09081, who compare with it; also `iter_snip` and `force` in one round).

    Args:
        batches: how many to take on the command line, the paper's 40 of ImageNet; its code has 1 unless told otherwise.
            All that `sparsify` is given count.
    """
    check(batches >= 1, f"snip_mb takes batches >= 1, got {batches}")
    return replace(base, start=replace(base.start, batches=batches))

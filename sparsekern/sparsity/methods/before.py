"""Patterns that are chosen before training and stay."""

from ..method import Method
from ..parts import scores
from ..parts.distributions import Distribution, by_name
from ..parts.schedules import constant
from ..scoring import network as starts
from .registry import Entry, check_batches, listed


@listed(Entry("No pruning", None, None, storage="dense", changes="never", gradient="dense"))
def dense(sparsity: float = 0.0, total_steps: int | None = None, steps_per_epoch: int | None = None) -> Method:
    """The dense network, untouched: the reference of every comparison. `sparsity` is ignored."""
    return Method("dense", constant(0.0), storage="dense")


@listed(Entry("Random pattern", None, None, storage="nonzeros", changes="never", gradient="active"))
def random(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    share: str | Distribution = "uniform",
    initialize: str = "keep",
) -> Method:
    """A static random pattern, exactly G(n, M) in each layer.

    Args:
        share: how the weights are shared by the layers: "uniform", "er", "erk", "global".
        initialize: "keep" keeps the weights of the model, "fan_in" draws new ones for the pattern, as `gse_*` do.
    """
    return Method("random", constant(sparsity), share=by_name(share), initialize=initialize)  # type: ignore[arg-type]


@listed(Entry("Magnitude at initialisation", None, None, storage="nonzeros", changes="never", gradient="active"))
def magnitude_init(sparsity: float, total_steps: int | None = None, steps_per_epoch: int | None = None) -> Method:
    """A static pattern: the globally largest |w| of the initial weights."""
    return Method("magnitude_init", constant(sparsity), start=starts.elementwise(scores.magnitude))


@listed(
    Entry(
        "SNIP",
        "Lee, Ajanthan, Torr, ICLR",
        2019,
        storage="nonzeros",
        changes="never",
        gradient="dense, once before",
        needs_batches=True,
    )
)
def snip(sparsity: float, total_steps: int | None = None, steps_per_epoch: int | None = None) -> Method:
    """SNIP: Single-shot Network Pruning based on Connection Sensitivity (Lee et al., ICLR 2019).

    Keeps the globally largest |w * dL/dw| of the initial weights; the gradient is the mean over the batches given to
    `sparsify`, the paper's single batch if there is one (`snip_mb` asks for more). The paper's normalisation by the sum
    does not change the order and is left out. The weights that were scored are the ones that train (some
    reimplementations score another initialisation).
    """
    return Method("snip", constant(sparsity), start=starts.elementwise(scores.saliency))


@listed(
    Entry(
        "SNIP over several batches",
        "de Jorge et al., ICLR",
        2021,
        storage="nonzeros",
        changes="never",
        gradient="dense, once before",
        needs_batches=True,
    )
)
def snip_mb(
    sparsity: float, total_steps: int | None = None, steps_per_epoch: int | None = None, *, batches: int = 40
) -> Method:
    """SNIP-MB: `snip` with the gradient averaged over several batches, |w * mean dL/dw| (de Jorge et al., Progressive
    Skeletonization, ICLR 2021, who compare with it; also `iter_snip` and `force` in one round).

    Args:
        batches: how many to take on the command line, the paper's 40 of ImageNet; its code has 1 unless told otherwise.
            All that `sparsify` is given count.
    """
    check_batches("snip_mb", batches)
    return Method("snip_mb", constant(sparsity), start=starts.elementwise(scores.saliency, batches))

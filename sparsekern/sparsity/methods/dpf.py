"""Dynamic Model Pruning with Feedback (Lin, Stich, Barba, Dmitriev, Jaggi, ICLR 2020)."""

from dataclasses import replace

from ..method import Method
from ..parts import scopes, scores, views
from ..parts.schedules import Cadence, cubic
from ..scoring.start import Start
from ..sites.storage import Master
from .registry import ALL, listed, variant_of
from .request import MIN_CHANGES, Request

PERIOD, LEAST, MASKS = 16, 4, 40


@listed(
    "DPF",
    paper="Lin, Stich, Barba, Dmitriev, Jaggi, ICLR",
    year=2020,
    storage="dense weights and optimizer state",
    changes="every 16 steps",
    gradient="dense",
    structures=ALL,
)
def dpf(
    request: Request, *, every: int | None = None, stop: float = 0.75, finetune: int = 0, min_per_layer: int = 0
) -> Method:
    """DPF: Dynamic Model Pruning with Feedback (Lin et al., ICLR 2020, arXiv 2006.07253). The network computes with its
    largest weights, and all weights learn.

    Before every `every`-th step the mask m becomes that of the globally largest |w| of the dense weight w; the
    gradient g at m w goes to all of w (straight-through): w <- opt(w, g). So the error w - m w that pruning makes is
    fed back, and a weight pruned too early returns. Sparsity in epoch e: s (1 - (1 - e / n)^3), s from epoch n on; the
    mask goes on changing and is made a last time after the last step. Weight decay is the optimizer's, on w. All
    convolutions are pruned, in a network without any all linear layers but the last; biases, batch norm and the last
    linear layer stay dense. No code of the authors was found.

    Args:
        every: p, steps between masks: 16, in short runs fewer, down to 4, so that 40 masks are made while the sparsity
            rises. What few masks prune at a time is too much for the network to recover from.
        stop: n as a fraction of the pruning epochs, the second learning rate drop (225 of 300).
        finetune: so many epochs at the end train the final pattern alone (the paper's +FT has 60): the layers then hold
            their nonzeros only, and the optimizer's state shrinks with them.
        min_per_layer: weights that stay in every layer.
    """
    steps, period, epochs = request.steps, request.epoch, request.epochs
    request.check(0 < stop <= 1, f"takes stop as a fraction of the pruning epochs in (0, 1], got {stop}")
    request.check(0 <= finetune < epochs, f"needs finetune below the {epochs} epochs of the run, got {finetune}")
    end = steps - finetune * period
    request.check(
        end >= period, f"raises its sparsity by epochs and needs one of {period} steps to prune in, got {end}"
    )
    ramp = min(max(1, round(stop * (epochs - finetune))), end // period) * period  # the last epoch may be a part
    if every is None:
        every = PERIOD if steps < MIN_CHANGES * PERIOD else min(PERIOD, max(LEAST, ramp // MASKS))
        if every != PERIOD:
            request.note(f"a mask every {every} steps instead of {PERIOD}, for {MASKS} while the sparsity rises")
    return Method(
        request.name,
        cubic(request.sparsity, ramp, period),
        request.often(Cadence(every, start=0, stop=end, last=end)),
        storage=Master(until=end if finetune else None),
        start=Start(scope=scopes.convolutions),
        view=replace(views.network, min_per_layer=min_per_layer),
    )


@variant_of(dpf, "DPF, each layer at the same sparsity")
def dpf_layerwise(base: Method) -> Method:
    """Changes `dpf` (arXiv 2006.07253): the largest |w| of each layer stay, all layers at the same sparsity."""
    return replace(base, view=replace(base.view, per_layer=True))


@variant_of(dpf, "DPF of filters", structures="")
def dpf_filter(base: Method, *, normalise: bool = False) -> Method:
    """Changes `dpf` (arXiv 2006.07253): masks are of whole filters (output channels), the globally largest ||F||_2;
    `sparsity` is the fraction of filters that are zero. Their bias and batch norm are left alone. `sparsekern.shrink`
    removes them afterwards.

    Args:
        every, stop, finetune: as in `dpf`.
        min_per_layer: filters that stay in every layer.
        normalise: divide the norms by sqrt(fan-in), so that layers compare by the size of a weight.
    """
    score = scores.filter_rms if normalise else scores.filter_norm
    return replace(base, view=replace(base.view, filters=True), drop=score)

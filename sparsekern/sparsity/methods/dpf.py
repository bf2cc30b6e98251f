"""Dynamic Model Pruning with Feedback (Lin, Stich, Barba, Dmitriev, Jaggi, ICLR 2020)."""

from ..method import Method
from ..parts import criteria, scopes, views
from ..parts.schedules import Cadence, cubic
from ..parts.views import View
from .registry import Entry, epochs_of, listed, not_too_rare


def _entry(title: str) -> Entry:
    return Entry(
        title,
        "Lin, Stich, Barba, Dmitriev, Jaggi, ICLR",
        2020,
        storage="dense weight",
        changes="every 16 steps",
        gradient="dense",
    )


def _dpf(
    name: str,
    view: View,
    sparsity: float,
    total_steps: int | None,
    steps_per_epoch: int | None,
    every: int,
    stop: float,
    finetune: int,
    min_per_layer: int,
    criterion: criteria.Criterion = criteria.magnitude,
) -> Method:
    steps, period, epochs = epochs_of(name, total_steps, steps_per_epoch)
    if not 0 < stop <= 1:
        raise ValueError(f"{name} takes stop as a fraction of the pruning epochs in (0, 1], got {stop}")
    if not 0 <= finetune < epochs:
        raise ValueError(f"{name} needs finetune below the {epochs} epochs of the run, got {finetune}")
    end = steps - finetune * period
    if end < period:
        raise ValueError(f"{name} raises its sparsity by epochs and needs one of {period} steps to prune in, got {end}")
    ramp = min(max(1, round(stop * (epochs - finetune))), end // period) * period  # the last epoch may be a part
    return Method(
        name,
        cubic(sparsity, ramp, period),
        not_too_rare(name, Cadence(every, start=0, stop=end, last=end), steps),
        storage="master",
        scope=scopes.convolutions,
        drop=criterion,
        view=view,
        update="before",
        freeze=end if finetune else None,
        min_per_layer=min_per_layer,
    )


@listed(_entry("DPF"))
def dpf(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    every: int = 16,
    stop: float = 0.75,
    finetune: int = 0,
    min_per_layer: int = 0,
) -> Method:
    """DPF: the network computes with its largest weights, and all weights learn.

    Before every `every`-th step the mask m becomes that of the globally largest |w| of the dense weight w; the
    gradient g at m w goes to all of w (straight-through): w <- opt(w, g). So the error w - m w that pruning makes is
    fed back, and a weight pruned too early returns. Sparsity in epoch e: s (1 - (1 - e / n)^3), s from epoch n on; the
    mask goes on changing and is made a last time after the last step. Weight decay is the optimizer's, on w. All
    convolutions are pruned, in a network without any all linear layers but the last; biases, batch norm and the last
    linear layer stay dense.

    Args:
        every: p, steps between masks, in short runs, too.
        stop: n as a fraction of the pruning epochs, the second learning rate drop (225 of 300).
        finetune: so many epochs at the end train the final pattern alone (the paper's +FT has 60): the layers then hold
            their nonzeros only, and the optimizer's state shrinks with them.
        min_per_layer: weights that stay in every layer.
    """
    return _dpf("dpf", views.network, sparsity, total_steps, steps_per_epoch, every, stop, finetune, min_per_layer)


@listed(_entry("DPF, each layer at the same sparsity"))
def dpf_layerwise(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    every: int = 16,
    stop: float = 0.75,
    finetune: int = 0,
    min_per_layer: int = 0,
) -> Method:
    """`dpf` with the largest |w| of each layer, all layers at the same sparsity. Options as there."""
    return _dpf(
        "dpf_layerwise", views.layer, sparsity, total_steps, steps_per_epoch, every, stop, finetune, min_per_layer
    )


@listed(_entry("DPF of filters"))
def dpf_filter(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    every: int = 16,
    stop: float = 0.75,
    finetune: int = 0,
    min_per_layer: int = 0,
    normalise: bool = False,
) -> Method:
    """`dpf` with masks of whole filters (output channels), the globally largest ||F||_2; `sparsity` is the fraction of
    filters that are zero. Their bias and batch norm are left alone. `sparsekern.shrink` removes them afterwards.

    Args:
        every, stop, finetune: as in `dpf`.
        min_per_layer: filters that stay in every layer.
        normalise: divide the norms by sqrt(fan-in), so that layers compare by the size of a weight.
    """
    criterion = criteria.filter_rms if normalise else criteria.filter_norm
    return _dpf(
        "dpf_filter",
        views.filters,
        sparsity,
        total_steps,
        steps_per_epoch,
        every,
        stop,
        finetune,
        min_per_layer,
        criterion,
    )

"""To prune, or not to prune (Zhu and Gupta 2018): gradual magnitude pruning of a dense network."""

from ..method import Method
from ..parts import scopes, views
from ..parts.schedules import Cadence, cubic
from ..parts.scopes import Scope
from ..scoring.start import Start
from .registry import ALL, listed
from .request import Request


@listed(
    "Gradual magnitude pruning",
    paper="Zhu, Gupta, ICLR workshop",
    year=2018,
    storage="nonzeros; all weights at first, fewer as it prunes",
    changes="every epoch",
    structures=ALL,
)
def gmp(request: Request, *, every: int | None = None, stop: float = 0.75, scope: str | Scope = "everything") -> Method:
    """GMP: To prune, or not to prune, exploring the efficacy of pruning for model compression (Zhu and Gupta, ICLR
    workshop 2018, arXiv 1710.01878): starts dense and prunes each layer by magnitude.

    s_t = s (1 - (1 - t / T_end)^3), advanced every `every` steps; a pruned weight is deleted and never returns. Values,
    gradients and optimizer state give room back when half of the network's is empty (later if s is above 94 %), and all
    of it at the final sparsity: up to five times in a run, each a compilation where the model is compiled
    (`Sparsifier.reallocated`). The "Incremental" baseline of the DPF paper (arXiv 2006.07253) has
    `scope="convolutions"`.

    Args:
        every: steps between changes, an epoch by default, less in a run too short for three.
        stop: fraction of the run after which the sparsity is final, T_end (the second learning rate drop, 225 of 300
            epochs, in the DPF paper).
        scope: the layers to prune: "everything", "without_classifier" or "convolutions".
    """
    steps, last = request.steps, request.end(stop)
    period = every if every is not None else min(request.epoch, max(1, int(last) // 3))
    request.check(period >= 1, f"takes every >= 1, got {period}")
    end = max(period, min(round(last / period), (steps - 1) // period) * period)
    request.check(end < steps, f"prunes every {period} steps, so never in a run of {steps}; give a smaller every")
    when = request.often(Cadence(period, stop=end))
    ramp = cubic(request.sparsity, end, period)
    return Method(request.name, ramp, when, start=Start(scope=scopes.by_name(scope)), view=views.layer)

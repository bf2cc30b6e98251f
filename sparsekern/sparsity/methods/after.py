"""Pruning after training: rounds of training, the smallest weights removed between them."""

from dataclasses import dataclass, replace
from math import ceil
from typing import Any, cast

from ..method import Method
from ..parts import scopes, views
from ..parts.schedules import Cadence, stairs
from ..parts.scopes import Scope
from ..rule import Rule
from ..scoring.start import Start
from ..sites.storage import Master
from .registry import ALL, listed, variant_of
from .request import Request, check

# The sparsities of the lottery tickets in the paper of Heddes et al.
LEVELS = (0.5, 0.75, 0.9, 0.95, 0.98)


@dataclass(frozen=True)
class TrainingRounds(Rule):
    """Trains in rounds, of which the last takes what is left of the run.

    Attributes:
        total: steps of the run.
        length: steps of a round.
        count: how many there are.
        restarts: whether the learning rate follows its schedule anew in every round.
        rewind: the step to which everything returns at the end of a round; None: the weights go on.
    """

    total: int
    length: int
    count: int
    restarts: bool
    rewind: int | None = None

    def clock(self, step: int) -> float:
        if not self.restarts:
            return step
        now = min(step // self.length, self.count - 1)
        begin = (self.rewind or 0) / self.length if now else 0.0
        span = self.length if now < self.count - 1 else self.total - now * self.length
        return self.total * (begin + (1 - begin) * (step - now * self.length) / span)


def _rounds(
    request: Request, levels: tuple[float, ...], length: int | None, scope: str | Scope, min_per_layer: int
) -> Method:
    """Trains a round at each of `levels`, all of `length` steps; by default they share the run evenly."""
    total, count = request.steps, len(levels)
    request.check(total >= count, f"takes {count} rounds, at least one step each, but the run has {total}")
    length = total // count if length is None else length
    epoch = request.steps_per_epoch or 0
    if (shortest := min(length, total - (count - 1) * length)) < epoch:
        request.warn(
            f"trains a round for {shortest} steps, less than an epoch of {epoch}", ceil(total * epoch / shortest)
        )
    begins = ", ".join(str(i * length) for i in range(count))
    request.note(f"sparsity {', '.join(f'{100 * level:.4g}' for level in levels)} % from steps {begins} on")
    return Method(
        request.name,
        stairs(levels, length),
        Cadence(length, start=length, stop=(count - 1) * length),
        storage=Master(until=length if count > 1 else None),
        start=Start(scope=scopes.by_name(scope)),
        view=replace(views.network, min_per_layer=min_per_layer),
        rule=TrainingRounds(total, length, count, restarts=True),
    )


def _with_rounds(method: Method, **changes: Any) -> Method:
    return replace(method, rule=replace(cast(TrainingRounds, method.rule), **changes))


@listed(
    "Magnitude after training",
    paper="Renda, Frankle, Carbin, ICLR",
    year=2020,
    storage="dense weights until it prunes, then nonzeros",
    changes="once, half-way",
    gradient="dense, then active weights",
    structures=ALL,
)
def magnitude_after(
    request: Request, *, stop: float = 0.5, scope: str | Scope = "everything", min_per_layer: int = 0
) -> Method:
    """Prunes by magnitude after training and rewinds the learning rate: Comparing Rewinding and Fine-tuning in Neural
    Network Pruning (Renda et al., ICLR 2020, arXiv 2003.02389), in one step, as Frankle et al. compare with it (ICLR
    2021, arXiv 2009.08576).

    Half of the run trains the dense network; then the globally smallest |w| are removed, and the other half trains what
    is left, from the values it has, on its nonzeros only, while the learning rate follows its schedule again from the
    start. Batch norm and optimizer state go on. The command line sees to the learning rate; elsewhere
    `method.rule.clock(step)` is the step of an ordinary run of `total_steps` whose learning rate belongs here.

    Args:
        stop: fraction of the run that trains the dense network.
        scope: the layers to prune: "everything", "without_classifier", or "convolutions".
        min_per_layer: weights that stay in every layer.
    """
    length = max(1, int(request.end(stop)))
    request.check(length < request.steps, f"takes stop below 1, so that steps are left to train what stays, got {stop}")
    return _rounds(request, (0.0, request.sparsity), length, scope, min_per_layer)


@variant_of(
    magnitude_after,
    "One-shot pruning and fine-tuning",
    paper="Han, Pool, Tran, Dally, NeurIPS",
    year=2015,
    changes="once, late",
)
def oneshot_ft(base: Method, *, stop: float = 5 / 6) -> Method:
    """Prunes once and fine-tunes: Learning both Weights and Connections for Efficient Neural Networks (Han et al.,
    NeurIPS 2015, arXiv 1506.02626), in one step. Trains the dense network, removes the globally smallest |w|, and
    trains what is left.

    From then on the layers and the optimizer's state hold the nonzeros only. Weights, batch norm and optimizer state go
    on as they are, and so does the learning rate's schedule.

    Args:
        stop: fraction of the run that trains the dense network: 300 of 360 epochs in the DPF paper, whose fine-tuning
            takes 60.
        scope: the layers to prune: "everything", "without_classifier", or "convolutions" (the DPF paper's).
        min_per_layer: weights that stay in every layer.
    """
    return _with_rounds(base, restarts=False)


@listed(
    "Lottery ticket",
    paper="Frankle, Carbin, ICLR",
    year=2019,
    storage="dense weights in the first round, then nonzeros; what it returns to, in a file",
    changes="after each of up to six rounds",
    gradient="dense, then active weights",
    structures=ALL,
)
def lottery(
    request: Request,
    *,
    fraction: float | None = None,
    scope: str | Scope = "everything",
    min_per_layer: int = 0,
) -> Method:
    """Lottery tickets: The Lottery Ticket Hypothesis, Finding Sparse, Trainable Neural Networks (Frankle and Carbin,
    ICLR 2019, arXiv 1803.03635).

    The network trains in rounds, the first time dense. After each the globally smallest |w| of what is left are
    removed, and all else returns to what it was when the `Sparsifier` was made: weights, biases, batch norm with its
    statistics, and the optimizer's state. The rounds are those of the sparsities 0, 50, 75, 90, 95 and 98 % up to
    `sparsity` (Heddes et al., section 4), or of `fraction`. **`total_steps` covers all of them, split evenly**, with
    what is left over in the last; in each the learning rate follows the whole of its schedule. The command line sees to
    that; elsewhere `method.rule.clock(step)` is the step of an ordinary run of `total_steps` whose learning rate
    belongs here. After the first round layers and optimizer state hold the nonzeros only. What is returned to lies in a
    temporary file on the CPU, if at most half of what is free there is needed for it, and otherwise in memory, where
    the values of pruned weights are dropped after a round.

    The official code (open_lth) removes in each round 20 % of what is left, rounded up; here counts are exact. It ranks
    all prunable weights together, as here, but leaves the output layer of LeNet and VGG dense; the paper's smallest
    networks rank those of each layer and remove half as much of the output layer.

    Args:
        fraction: of what is left to remove in each round, 0.2 in the paper (sparsities 20, 36, 48.8, 59, ... %), in
            place of the six levels.
        scope: the layers to prune: "everything", "without_classifier", or "convolutions".
        min_per_layer: weights that stay in every layer.
    """
    request.check(fraction is None or 0 < fraction < 1, f"takes fraction in (0, 1), got {fraction}")
    way = LEVELS if fraction is None else [1 - (1 - fraction) ** i for i in range(1, 1000)]
    final = (request.sparsity,) if request.sparsity else ()
    levels = (0.0, *(level for level in way if level < request.sparsity), *final)
    return _with_rounds(_rounds(request, levels, None, scope, min_per_layer), rewind=0)


@variant_of(lottery, "Lottery ticket, rewound", paper="Frankle, Dziugaite, Roy, Carbin, ICML", year=2020)
def rewind(base: Method, *, step: int | None = None) -> Method:
    """Lottery tickets of an early step: Linear Mode Connectivity and the Lottery Ticket Hypothesis (Frankle et al.,
    ICML 2020, arXiv 1912.05671).

    Works as `lottery`, but everything returns to what it was after `step` steps of the first round, optimizer state
    included, and the learning rate to what its schedule had there. All rounds are of the same length, so that in the
    later ones the rest of the schedule takes a little longer.

    Args:
        step: k; by default 3 % of a round (the paper has 2,000 of 63,000 steps for ResNet-20 on CIFAR-10).
        fraction, scope, min_per_layer: as in `lottery`.
    """
    rounds = cast(TrainingRounds, base.rule)
    step = round(0.03 * rounds.total / rounds.count) if step is None else step
    first = f"rewind rewinds to a step of the first round, of {rounds.length} steps, got {step}"
    check(0 <= step < rounds.length, first)
    return _with_rounds(base, rewind=step)


Rounds = TrainingRounds  # as it was called in version 0.1

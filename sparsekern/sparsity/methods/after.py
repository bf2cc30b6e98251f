"""Pruning after training: rounds of training, the smallest weights removed between them."""

from dataclasses import dataclass

from ..method import Method
from ..parts.schedules import Cadence, stairs
from ..rule import Rule
from .registry import Entry, end_of, listed, steps_of

# The sparsities of the lottery tickets in the paper of Heddes et al.
LEVELS = (0.5, 0.75, 0.9, 0.95, 0.98)


@dataclass(frozen=True)
class Rounds(Rule):
    """Rounds of training, of which the last takes what is left of the run.

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
    name: str,
    levels: tuple[float, ...],
    total_steps: int | None,
    length: int | None,
    rewind: int | None,
    restarts: bool,
    min_per_layer: int,
) -> Method:
    """A round at each of `levels`, all of `length` steps; by default they share the run evenly."""
    total, count = steps_of(name, total_steps), len(levels)
    if total < count:
        raise ValueError(f"{name} takes {count} rounds, at least one step each, but the run has {total}")
    length = total // count if length is None else length
    if rewind is not None and not 0 <= rewind < length:
        raise ValueError(f"{name} rewinds to a step of the first round, of {length} steps, got {rewind}")
    percents = ", ".join(f"{100 * level:.4g}" for level in levels)
    begins = ", ".join(str(i * length) for i in range(count))
    return Method(
        name,
        stairs(levels, length),
        Cadence(length, start=length, stop=(count - 1) * length),
        storage="master",
        update="before",
        freeze=length if count > 1 else None,
        rule=Rounds(total, length, count, restarts, rewind),
        min_per_layer=min_per_layer,
        notes=(f"{name}: sparsity {percents} % from steps {begins} on",),
    )


def _levels(name: str, sparsity: float, fraction: float | None) -> tuple[float, ...]:
    """The sparsities of the rounds: 0, those on the way, and that of the result."""
    if fraction is not None and not 0 < fraction < 1:
        raise ValueError(f"{name} takes fraction in (0, 1), got {fraction}")
    way = LEVELS if fraction is None else [1 - (1 - fraction) ** i for i in range(1, 1000)]
    return (0.0, *(level for level in way if level < sparsity), *((sparsity,) if sparsity else ()))


def _entry(title: str, paper: str, year: int, changes: str = "after each of up to six rounds") -> Entry:
    return Entry(title, paper, year, "dense weight, then nonzeros", changes, "dense, then active")


@listed(_entry("One-shot pruning and fine-tuning", "Han, Pool, Tran, Dally, NeurIPS", 2015, "once, late"))
def oneshot_ft(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    stop: float = 5 / 6,
    min_per_layer: int = 0,
) -> Method:
    """One-shot pruning and fine-tuning (Han et al. 2015, in one step): trains the dense network, removes the globally
    smallest |w|, and trains what is left.

    From then on the layers and the optimizer's state hold the nonzeros only. Weights, batch norm and optimizer state go
    on as they are, and so does the learning rate's schedule.

    Args:
        stop: fraction of the run that trains the dense network: 300 of 360 epochs in the DPF paper, whose fine-tuning
            takes 60.
        min_per_layer: weights that stay in every layer.
    """
    length = max(1, int(end_of("oneshot_ft", stop, total_steps)))
    if length >= steps_of("oneshot_ft", total_steps):
        raise ValueError(f"oneshot_ft takes stop below 1, so that steps for fine-tuning are left, got {stop}")
    return _rounds("oneshot_ft", (0.0, sparsity), total_steps, length, None, False, min_per_layer)


@listed(_entry("Magnitude after training", "Renda, Frankle, Carbin, ICLR", 2020, "once, half-way"))
def magnitude_after(
    sparsity: float, total_steps: int | None = None, steps_per_epoch: int | None = None, *, min_per_layer: int = 0
) -> Method:
    """Magnitude pruning after training with learning rate rewinding: Comparing Rewinding and Fine-tuning in Neural
    Network Pruning (Renda et al., ICLR 2020), in one step, as Frankle et al. (ICLR 2021) compare with it.

    Half of the run trains the dense network; then the globally smallest |w| are removed, and the other half trains what
    is left, from the values it has, on its nonzeros only, while the learning rate follows its schedule again from the
    start. Batch norm and optimizer state go on. The command line sees to the learning rate; elsewhere
    `method.rule.clock(step)` is the step of an ordinary run of `total_steps` whose learning rate belongs here.

    Args:
        min_per_layer: weights that stay in every layer.
    """
    return _rounds("magnitude_after", (0.0, sparsity), total_steps, None, None, True, min_per_layer)


@listed(_entry("Lottery ticket", "Frankle, Carbin, ICLR", 2019))
def lottery(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    fraction: float | None = None,
    min_per_layer: int = 0,
) -> Method:
    """The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks (Frankle and Carbin, ICLR 2019).

    Rounds of training, the first of the dense network: after each the globally smallest |w| of what is left are
    removed, and all else returns to what it was when the `Sparsifier` was made: weights, biases, batch norm with its
    statistics, and the optimizer's state. The rounds are those of the sparsities 0, 50, 75, 90, 95 and 98 % up to
    `sparsity` (Heddes et al., section 4), or of `fraction`. **`total_steps` covers all of them, split evenly**, with
    what is left over in the last; in each the learning rate follows the whole of its schedule. The command line sees to
    that; elsewhere `method.rule.clock(step)` is the step of an ordinary run of `total_steps` whose learning rate
    belongs here. After the first round layers and optimizer state hold the nonzeros only; of the values to return to,
    those of pruned weights are dropped.

    The official code (open_lth) removes in each round 20 % of what is left, rounded up; here counts are exact. It ranks
    all prunable weights together, as here, but leaves the output layer of LeNet and VGG dense; the paper's smallest
    networks rank those of each layer and remove half as much of the output layer.

    Args:
        fraction: of what is left to remove in each round, 0.2 in the paper (sparsities 20, 36, 48.8, 59, ... %), in
            place of the six levels.
        min_per_layer: weights that stay in every layer.
    """
    return _rounds("lottery", _levels("lottery", sparsity, fraction), total_steps, None, 0, True, min_per_layer)


@listed(
    _entry("Lottery ticket, rewound", "Frankle, Dziugaite, Roy, Carbin, ICML", 2020, "after each of up to six rounds")
)
def rewind(
    sparsity: float,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    *,
    step: int | None = None,
    fraction: float | None = None,
    min_per_layer: int = 0,
) -> Method:
    """Lottery tickets of an early step: Linear Mode Connectivity and the Lottery Ticket Hypothesis (Frankle et al.,
    ICML 2020).

    As `lottery`, but everything returns to what it was after `step` steps of the first round, optimizer state included,
    and the learning rate to what its schedule had there. All rounds are of the same length, so that in the later ones
    the rest of the schedule takes a little longer.

    Args:
        step: k; by default 3 % of a round (the paper has 2,000 of 63,000 steps for ResNet-20 on CIFAR-10).
        fraction, min_per_layer: as in `lottery`.
    """
    levels = _levels("rewind", sparsity, fraction)
    if step is None:
        step = round(0.03 * steps_of("rewind", total_steps) / len(levels))
    return _rounds("rewind", levels, total_steps, None, step, True, min_per_layer)

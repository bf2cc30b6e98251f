"""A method is a composition: a schedule, when the pattern changes, what is dropped, what grows, over which view."""

from dataclasses import dataclass
from typing import Literal, cast

from ..topology import kept
from .growth.candidates import Growth
from .parts import criteria, distributions, scopes, views
from .parts.criteria import Criterion
from .parts.distributions import Distribution
from .parts.orders import Order
from .parts.schedules import NEVER, ZERO, Cadence, Schedule, Stages, final
from .parts.scopes import Scope
from .parts.views import View
from .rule import NO_RULE, Rule
from .scoring.network import Start
from .sites.storage import NONZEROS, Name, Storage, named


@dataclass(frozen=True)
class Method:
    """How the pattern of a network begins and changes.

    Attributes:
        sparsity: fraction of absent weights at every step; its value at step 0 is the first pattern's.
        when: the steps at which the pattern changes.
        storage: how layers keep their weights (`sites/storage.py`), an object or its name. "nonzeros"; "master": a
            dense weight of which a mask takes part (`MaskedLinear`, `MaskedConv2d`), since pruned weights go on
            learning; "stashed": pruned weights lie aside as they were; "dense": nothing is pruned.
        scope: which layers are pruned.
        start: how the dense network is scored for the first pattern; None: random, G(n, M) in every layer; where
            pruned weights are kept, all weights, unless the sparsity of step 0 is above 0 and no change comes before
            it.
        drop: what scores lowest among the active weights is dropped; of a master, what scores highest among all
            weights is active.
        grow: what may come to life; None: nothing does.
        rate: fraction of the active weights exchanged at a change.
        view: over which weights drop and growth choose.
        share: counts of the first random pattern, and of each layer under a scheduled sparsity in the layer view.
        update: the order of a step (`parts/orders.py`), an object or its name. "step": the optimizer steps, then the
            pattern changes; "replace": the change takes the step's place; "before": the change comes first, before the
            forward pass.
        rule: what goes beyond this composition.
        freeze: from this step on the layers of a master hold their nonzeros only; its pattern rests, or only loses
            weights.
        initialize: "keep" the weights of the model, or draw them with variance 1 / the "fan_in" of the pattern's row,
            or 2 / fan-in ("evci", Evci et al. 2022), or "rescale" those of the model, so that the variance of a row's
            output is that of the dense row.
        min_per_layer: so many weights, or filters, stay in every layer.
        steps_per_epoch: for a rule that looks at epochs.
        notes: what the method adapted to the length of the run, for reports.
    """

    name: str
    sparsity: Schedule
    when: Cadence | Stages = NEVER
    storage: Storage | Name = NONZEROS
    scope: Scope = scopes.everything
    start: Start | None = None
    drop: Criterion = criteria.magnitude
    grow: Growth | None = None
    rate: Schedule = ZERO
    view: View = views.network
    share: Distribution = distributions.uniform
    update: Order | Literal["step", "replace", "before"] = Order.AFTER
    rule: Rule = NO_RULE
    freeze: int | None = None
    initialize: Literal["keep", "fan_in", "evci", "rescale"] = "keep"
    min_per_layer: int = 0
    steps_per_epoch: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "storage", named(self.storage))
        object.__setattr__(self, "update", Order(self.update))
        for sparsity, rate in ((self.sparsity(0), self.rate(0)), (final(self.sparsity), final(self.rate))):
            kept(sparsity, 1)
            if not 0 <= rate <= 1:
                raise ValueError(f"rate must lie in [0, 1], got {rate}")
        if self.min_per_layer < 0:
            raise ValueError(f"min_per_layer must be at least 0, got {self.min_per_layer}")
        if self.initialize not in ("keep", "fan_in", "evci", "rescale"):
            raise ValueError(f"initialize must be 'keep', 'fan_in', 'evci' or 'rescale', got {self.initialize!r}")

    @property
    def scored(self) -> Start:
        """`start` of a method that has one."""
        return cast(Start, self.start)

    @property
    def needs_batches(self) -> bool:
        """Whether the first pattern is scored on data: `sparsify` then takes `batches` and `loss`."""
        return self.start is not None and self.start.batches > 0

    @property
    def moves_counts(self) -> bool:
        """Whether weights move between layers, so that a layer needs room for more than it has."""
        return self.grow is not None and not self.view.per_layer

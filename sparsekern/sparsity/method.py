"""A method is a composition: a schedule, when the pattern changes, what is dropped, what grows, over which view."""

from dataclasses import dataclass

from ..topology import kept
from .growth.growth import Growth
from .old_fields import accepts_old_fields
from .parts import scores, views
from .parts.orders import Order
from .parts.schedules import NEVER, Cadence, Schedule, Stages, final
from .parts.scores import Score
from .parts.views import View
from .rule import NO_RULE, Rule
from .scoring.network import RANDOM, Start
from .sites.storage import NONZEROS, Name, Storage, named


@accepts_old_fields
@dataclass(frozen=True)
class Method:
    """Says how the pattern of a network begins and changes.

    Attributes:
        sparsity: fraction of absent weights at every step; its value at step 0 is the first pattern's.
        when: the steps at which the pattern changes.
        storage: how layers keep their weights (`sites/storage.py`), an object or its name. "nonzeros"; "master": a
            dense weight of which a mask takes part (`MaskedLinear`, `MaskedConv2d`), since pruned weights go on
            learning; "stashed": pruned weights lie aside as they were; "dense": nothing is pruned.
        start: which layers become sparse, how their first pattern is chosen, and which values its weights begin with.
        drop: the score by which active weights are dropped, the lowest first; where pruned weights are kept, what
            scores highest among all weights is active.
        view: over which weights drop and growth choose, and how the layers share a scheduled sparsity.
        grow: which absent weights come to life, and how many; None: none does.
        rule: what goes beyond this composition.
        notes: what the method adapted to the length of the run, for reports.
    """

    name: str
    sparsity: Schedule
    when: Cadence | Stages = NEVER
    storage: Storage | Name = NONZEROS
    start: Start = RANDOM
    drop: Score = scores.magnitude
    view: View = views.network
    grow: Growth | None = None
    rule: Rule = NO_RULE
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "storage", named(self.storage))
        for sparsity in (self.sparsity(0), final(self.sparsity)):
            kept(sparsity, 1)

    @property
    def order(self) -> Order:
        """When, around the optimizer's step, the pattern changes: before it where pruned weights are kept, otherwise
        after it, unless growth takes its place."""
        if named(self.storage).keeps_pruned:
            return Order.BEFORE
        return Order.INSTEAD if self.grow is not None and self.grow.replaces_step else Order.AFTER

    @property
    def needs_batches(self) -> bool:
        """Whether the first pattern is scored on data: `sparsify` then takes `batches` and `loss`."""
        return self.start.batches > 0

    @property
    def moves_counts(self) -> bool:
        """Whether weights move between layers, so that a layer needs room for more than it has."""
        return self.grow is not None and not self.view.per_layer

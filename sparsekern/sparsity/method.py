"""A method is a composition: a schedule, when the pattern changes, what is dropped, what grows, over which view."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

from .. import text
from ..topology import nnz_at
from . import composition
from .growth.growth import Growth
from .old_fields import accepts_old_fields
from .parts import scores, structures, views
from .parts.orders import Order
from .parts.schedules import NEVER, Cadence, Schedule, Stages, final, towards
from .parts.scores import Score
from .parts.structures import FanIn, NofM
from .parts.views import View
from .rule import NO_RULE, Rule
from .scoring.start import RANDOM, Start
from .sites.storage import NONZEROS, Name, Storage, storage_by_name


@accepts_old_fields
@dataclass(frozen=True)
class Method:
    """Says how the pattern of a network begins and changes. `print` shows it as a table, a notebook too.

    Attributes:
        sparsity: fraction of absent weights at every step; its value at step 0 is the first pattern's.
        when: the steps at which the pattern changes.
        storage: how layers keep their weights (`sites/storage.py`), an object or its name. "nonzeros"; "master": a
            dense weight under a mask (`MaskedLinear`, `MaskedConv2d`), since pruned weights go on learning; "stashed":
            pruned weights are stashed as they were; "dense": nothing is pruned.
        start: which layers become sparse, how their first pattern is chosen, and which values its weights begin with.
        drop: the score by which active weights are dropped, the lowest first; where pruned weights are kept, what
            scores highest among all weights is active.
        view: over which weights drop and growth choose, and how the layers share a scheduled sparsity.
        grow: which absent weights are added, and how many; None: none.
        rule: what goes beyond this composition.
        notes: what the method adapted to the length of the run, for reports.
        again: makes the method anew, of another sparsity; see `at`.

    Examples:
        >>> from sparsekern.sparsity.growth import uniform
        >>> from sparsekern.sparsity.parts.schedules import Cadence, constant
        >>> method = Method("mine", constant(0.9), when=Cadence(100), grow=uniform(constant(0.3)))
        >>> method.sparsity(0), method.order.value
        (0.9, 'step')
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
    again: Callable[[float], "Method"] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "storage", storage_by_name(self.storage))
        for sparsity in (self.sparsity(0), final(self.sparsity)):
            nnz_at(sparsity, 1)

    def __str__(self) -> str:
        return text.columns(composition.rows(self))

    def _repr_html_(self) -> str:
        """Returns the method as a notebook shows it."""
        return text.html(composition.rows(self))

    @property
    def resolved_storage(self) -> Storage:
        """The storage as an object, also where it was given by its name."""
        return cast(Storage, self.storage)

    @property
    def order(self) -> Order:
        """When, around the optimizer's step, the pattern changes: before it where pruned weights are kept, otherwise
        after it, unless growth takes its place."""
        if self.resolved_storage.keeps_pruned:
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

    @property
    def has_sparsity(self) -> bool:
        """Whether the method reaches a sparsity that it was given, so that some layers can be given another one."""
        return self.again is not None or final(self.sparsity) > 0

    def at(self, sparsity: float) -> "Method":
        """Returns the method for layers of another sparsity. Patterns change at the same steps: where these depend on
        the sparsity (`lottery`), and in a composition of one's own, the present schedule is scaled.

        Raises:
            ValueError: `sparsity` is not in [0, 1), or the method finds its own.
        """
        nnz_at(sparsity, 1)
        made = None if self.again is None else self.again(sparsity)
        if made is not None and (made.when, made.storage) == (self.when, self.storage):
            return made
        if not final(self.sparsity):
            raise ValueError(
                f"{self.name} reaches no sparsity that it is given: give these layers a method of their own"
            )
        return replace(self, sparsity=towards(sparsity, self.sparsity))

    def structured(self, name: str) -> "Method":
        """Returns the method with patterns of a structure: "2:4" (N of every M inputs), "4x4" (blocks of outputs by
        inputs) or "fan_in" (as many weights in every row); see `parts/structures.py`. Growth keeps fan-in only.

        Raises:
            ValueError: there is none of this name, or the method cannot have it.
        """
        structure, sparsity = structures.by_name(name), final(self.sparsity)
        if isinstance(structure, NofM) and abs(sparsity - (1 - structure.n / structure.m)) > 1e-9:
            raise ValueError(
                f"{name} is a sparsity of {1 - structure.n / structure.m:g}, but {self.name} has {sparsity:g}"
            )
        grow = self.grow
        if grow is not None:
            if grow.by_row is None or not isinstance(structure, FanIn):
                raise ValueError(f"{self.name} of these options does not grow weights by {name}")
            grow = replace(grow, candidates=grow.by_row)
        view = replace(self.view, structure=structure, per_layer=self.view.per_layer or structure.per_layer)
        return replace(self, view=view, grow=grow)

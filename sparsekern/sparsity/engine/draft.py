"""A draft: everything that one step changes is made beside the engine, and exchanged all at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ... import ops
from ...nn.live_states import renew, shared
from ...topology import Topology
from ..change.compaction import trim
from ..change.optimizer_layout import States
from ..change.transaction import Transaction
from ..method import Method
from ..sites.capacity import capacity_for_growth
from ..sites.layer_site import Companions, LayerSite
from ..sites.master import MasterSite
from ..sites.nonzeros import NonzerosSite
from ..sites.stashed import StashedSite
from ..sites.storage import NONZEROS, Storage
from .checks import check_copies, check_ranks, check_states
from .drop_and_grow import capacities, drop_and_grow, masks, warn_of_collapse
from .snapshot import Snapshot

if TYPE_CHECKING:
    from .engine import Engine


class FirstChange(NamedTuple):
    """A site, the pattern that its layer came with, and the one that the first change gave it."""

    site: Any
    original: Topology
    changed: Topology


@dataclass
class Progress:
    """The state of training: how far it has come.

    Attributes:
        sites: one for every layer that the method drives.
        storage: how they keep their weights: the method's storage, nonzeros once they have settled.
        steps: completed steps.
        losses: mean training loss of every epoch.
        rewired, reallocated: what the last step, and `epoch_end` since, did; see `Sparsifier`.
        late: both, of a change in `epoch_end`, which the next step reports, too.
        settled: layers with a dense weight have become layers that hold their nonzeros only.
        frozen: no pattern changes any more.
        unloaded: the layers hold their nonzeros only, as those of a run that has settled: its state is to be loaded.
        replaced: Parameters were replaced, which a `DistributedDataParallel` has yet to be told.
        loss_due: the change of pattern waits for the epoch's loss.
        armed: the layers are prepared for the coming step.
        first: what the first change did to layers, until the first step.
        snapshot: what weights and optimizer state are rewound to.
    """

    sites: list[Any]
    storage: Storage
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    rewired: bool = False
    reallocated: bool = False
    late: tuple[bool, bool] = (False, False)
    settled: bool = False
    frozen: bool = False
    unloaded: bool = False
    replaced: bool = False
    loss_due: bool = False
    armed: bool = False
    first: list[FirstChange] = field(default_factory=list)
    snapshot: Snapshot | None = None


class Draft:
    """The next state of an engine, its layers and its optimizer.

    Nothing that others see changes before `commit`, which exchanges everything in one instruction of the interpreter.

    Attributes:
        now: a copy of the engine's progress; once the draft has begun to change a pattern, with drafts of its sites.
        transaction: collects what is to be exchanged.
        states: where the optimizer keeps its state of the weights; once the draft has begun.
        generator: a copy of the engine's; once the draft has begun.
    """

    states: States
    generator: torch.Generator

    def __init__(self, engine: Engine) -> None:
        self.engine, self.now = engine, copy.copy(engine.now)
        self.method, self.transaction = engine.method, Transaction()
        self._begun = False

    def commit(self) -> None:
        """Makes the draft the engine's progress, and its layers' and optimizer's state."""
        if self._begun:
            own = self.engine.generator
            self.transaction.call(torch.Generator.set_state, own, self.generator.get_state())
            self.transaction.call(list.extend, self.engine.shrunk, self.transaction.shrunk)
            self.now.sites = self.transaction.sites(self.now.sites)
            self.now.replaced |= self.states.replaced
        self.transaction.assign(self.engine, now=self.now)
        self.transaction.commit()

    def begin(self) -> None:
        """Makes drafts of the sites and of the generator, and finds the optimizer's state of the weights."""
        if not self._begun:
            self._begun, self.states = True, States(self.engine.optimizer, self.engine.averages)
            self.now.sites = [self.transaction.site(site) for site in self.now.sites]
            own = self.engine.generator
            self.generator = torch.Generator(own.device).set_state(own.get_state())

    # ---- the steps of training

    def start(self) -> None:
        """Changes the pattern before the first step, where the method wants that."""
        if self.engine.order.precedes_step and self.method.when.fires(0):
            self.change()
        self.rewind(changed=False)

    def finish_step(self, due: bool) -> None:
        """Does what comes after the optimizer's step. `due`: the pattern changes in this step."""
        now = self.now
        (now.rewired, now.reallocated), now.late, now.first = now.late, (False, False), []
        if due and not self.engine.order.precedes_step:
            self.change()
        now.steps += 1
        if self.engine.order.precedes_step:
            self._prepare_step()
        changed = self.engine.due(now)
        if now.steps == now.storage.until:
            self.settle()
            now.frozen |= now.steps >= self.method.when.stop
        self.rewind(changed)
        now.armed = False

    def finish_epoch(self, loss: float) -> None:
        """Notes an epoch's loss, and makes the change of pattern that waited for it."""
        now = self.now
        now.losses = [*now.losses, loss]
        if now.loss_due:
            now.loss_due = False
            if self.engine.due(now):
                now.rewired = now.reallocated = False
                self.change()
                now.late = now.rewired, now.reallocated

    def _prepare_step(self) -> None:
        """Makes the change before the next step, unless it waits for the loss of the epoch that just ended."""
        now, period = self.now, self.method.rule.epoch
        if period is not None and now.steps % period == 0 and not now.frozen:
            if now.loss_due and now.steps >= 2 * period:
                raise RuntimeError(
                    f"{self.method.name} looks at the training loss of every epoch: call epoch_end(train_loss) after "
                    f"each {period} steps"
                )
            now.loss_due = True
        elif self.engine.due(now):
            self.change()

    def rewind(self, changed: bool) -> None:
        """Takes the snapshot at its step. Later, where the pattern has `changed`, weights and optimizer state return to
        it."""
        engine, now = self.engine, self.now
        if now.steps == self.method.rule.rewind:
            now.snapshot = Snapshot.of(engine.model, engine.optimizer, now.sites)
        elif now.snapshot is not None and changed:
            now.snapshot = now.snapshot.restore(self.transaction, engine.model, engine.optimizer, now.sites)

    # ---- changes of pattern

    @torch.no_grad()
    def change(self) -> None:
        """Changes the pattern of every layer that learns and, where weights grow after the step, got a gradient; rules
        that `prune_missed` prune the others, too."""
        self.begin()
        for site in self.now.sites:
            site.changes = {"flips": 0, "iou_last": 1.0}
        sites = [site for site in self.now.sites if site.learns]
        if sites and not self.engine.order.precedes_step:
            growing = self.method.grow is not None
            # Without any gradient an optimizer has stepped within the backward pass.
            growing &= any(site.reached for site in sites)
            reached = [s for s in sites if not s.missed and (not growing or self.engine.gradients.reaches(s))]
            if not reached:
                raise RuntimeError("the pattern changes in this step, but no backward pass reached a sparse layer")
            sites = sites if self.method.rule.prune_missed else reached
        if not sites:
            return
        check_ranks(sites)
        self._check_copies(sites)
        if self.now.storage.moves_weights:
            check_states(self.now.sites, self.states)
        self.now.storage.change(self, sites)
        warn_of_collapse(self.now.sites, self.engine.method)

    def rewire(self, sites: Sequence[NonzerosSite]) -> None:
        """Drops and grows weights of the sites."""
        gradients, step = self.engine.gradients, self.now.steps
        gradients.begin(step)
        for method, own in self.engine.by_method(sites):
            chosen = drop_and_grow(method, own, step, self.generator, gradients)
            needed = [rewiring.kept + rewiring.grow.numel() for rewiring in chosen]
            rooms = capacities(method, own, needed, step)
            for site, rewiring, capacity in zip(own, chosen, rooms, strict=True):
                self._note(site, site.rewire(*rewiring, capacity, self._along(site)))

    def remask(self, sites: Sequence[MasterSite | StashedSite]) -> None:
        """Gives the sites masks over all weights."""
        for method, own in self.engine.by_method(sites):
            self._remask(method, own)

    def _remask(self, method: Method, sites: Sequence[MasterSite | StashedSite]) -> None:
        with ops.host.deferred_checks():
            chosen = masks(method, sites, self.now.steps, self.now.losses, self.generator)
            if not chosen:
                return
            # A device is waited for once, not for every layer.
            shared = [site.shared(mask) for site, mask in zip(sites, chosen, strict=True)]
            told = ops.host.read_ints([*map(ops.host.count, chosen), *shared])
        counts, commons = told[: len(sites)], told[len(sites) :]
        total, settles = sum(counts), self.now.steps == self.now.storage.until
        for site, mask, count, common in zip(sites, chosen, counts, commons, strict=True):
            capacity = capacity_for_growth(count, site.size, total, len(sites))
            self._note(site, site.remask(mask, count, common, capacity, self._along(site), settles))

    def settle(self) -> None:
        """Ends all changes by masks: every layer holds its nonzeros only."""
        self.begin()
        now = self.now
        if now.storage.sheds:
            check_states(now.sites, self.states)
            now.reallocated = True
            self._check_copies(now.sites)
        now.sites = [site.settle(self._along(site)) for site in now.sites]
        now.storage, now.settled = NONZEROS, True

    def undo_first_change(self) -> None:
        """Restores the patterns from before the first change, so that a state can be loaded; not those that have
        changed since."""
        for site, original, changed in self.now.first:
            if site.active is changed:
                for layer in (site.module, *self.engine.followers_of(site)):
                    self.transaction.layer(layer).set_topology(original if layer is site.module else original.clone())
        self.now.first = []

    def fit(self, saved: dict[str, Any]) -> None:
        """Gives the layers the capacities that they have in a saved state of the sites."""
        for site in self.now.sites:
            site.fit(saved[site.name], self._along(site))

    def _along(self, site: LayerSite) -> Companions:
        return Companions(self.transaction, self.states, self.engine.followers_of(site))

    def _check_copies(self, sites: Sequence[LayerSite]) -> None:
        check_copies(sites, [self.engine.followers_of(site) for site in sites], self.transaction)

    def _note(self, site: LayerSite, reallocated: bool) -> None:
        self.now.reallocated |= reallocated
        self.now.rewired |= site.changes["flips"] > 0


@contextmanager
def drafted(engine: Engine) -> Iterator[Draft]:
    """Commits a draft when the block ends. If the block raises, nothing has changed."""
    draft = Draft(engine)
    try:
        yield draft
        draft.commit()
    finally:
        draft.transaction.forget()
        vars(draft).clear()  # whoever still holds the draft holds no tensor that was replaced
    give_back(engine)


def give_back(engine: Engine) -> None:
    """Gives back the memory that a change of pattern has left over."""
    if engine.shrunk:
        layers = [layer for site in engine.now.sites for layer in (site.module, *engine.followers_of(site))]
        alive = [(shared(layer), layer) for layer in layers]
        trim(engine.shrunk)
        for entries, layer in alive:
            renew(entries, layer)

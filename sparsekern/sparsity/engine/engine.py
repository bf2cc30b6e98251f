"""The engine: changes the patterns of a network while an optimizer trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ... import ops
from ...nn import MaskedLayer
from .. import parallel
from ..change.optimizer_layout import States
from ..change.transaction import Transaction
from ..growth.gradients import Batches
from ..method import Method
from ..scoring.network import Loss
from ..sites.capacity import roomy
from ..sites.master import MasterSite, ParkedSite
from ..sites.site import LayerSite, Site
from .checks import check_copies, check_network, check_states
from .discovery import followers_of, passes_of, share_patterns, sites_of
from .eager import EagerSteps
from .plan import capacities, masks, plan, warn_of_collapse
from .snapshot import Origin


class Engine:
    """The layers of a model whose pattern a method changes, and what changes with them; see `Sparsifier`.

    Attributes:
        settled: layers with a dense weight have become layers that hold their nonzeros only.
        frozen: no pattern changes any more.
    """

    _transaction: Transaction  # of a draft
    _states: States

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: Method,
        followers: Sequence[nn.Module],
        batches: Batches | None,
        loss: Loss | None,
        generator: torch.Generator | None,
    ) -> None:
        self.optimizer, self.method = optimizer, method
        self.passes = passes_of(model, method, batches, loss)
        self.sites: list[Any] = sites_of(model, method)
        check_network(self.sites, optimizer, method)
        share_patterns(self.sites)
        self.followers = [followers_of(follower, self.sites) for follower in followers]
        seed = parallel.common_seed(int(torch.randint(2**62, ()))) if generator is None else 0
        self.generator = generator or torch.Generator().manual_seed(seed)
        self.steps = 0
        self.losses: list[float] = []  # mean training loss of every epoch
        self.frozen = False
        self.origin: Origin | None = None  # what the method returns to
        self.rewired = self.reallocated = False
        self._late = False, False  # what a change in `epoch_end` has to tell of itself after the next step
        self._loss_due = False  # the change of pattern waits for the epoch's loss
        self._eager = EagerSteps()
        self._unarmed = True  # the layers are not yet prepared for the step to come
        # The layers hold their nonzeros only, as those of a run that the method has settled: its state is to be loaded.
        self._unloaded = method.storage == "master" and bool(self.sites) and type(self.sites[0]) is Site
        self.settled = self._unloaded
        self._found: list[tuple[Any, Any, Any]] = []  # sites, the patterns that the model came with, and the first ones
        self._begun = False  # of a draft: the sites and the generator are drafts
        for site in self.sites:
            site.optimizer = optimizer
        if not self._unloaded:
            self._start()
        self._arm()

    def _start(self) -> None:
        """What comes before the first step."""
        for site in self.sites:
            with torch.no_grad():
                site.tracked = self.method.rule.begin(site)
        came = [site.active for site in self.sites]
        with self._draft() as draft:
            if self.method.update == "before" and self.method.when.fires(0):
                draft._change()
            draft._return(changed=False)
        pairs = zip(self.sites, came, strict=True)
        self._found = [(site, pattern, site.active) for site, pattern in pairs if site.active is not pattern]

    def _come_back(self) -> None:
        """Of a draft whose state is to be loaded: gives the model the patterns that it came with, if it still has those
        of the first change."""
        for site, came, first in self._found:
            if site.active is first:
                for layer in (site.module, *self._followers_of(site)):
                    self._transaction.layer(layer).set_topology(came if layer is site.module else came.clone())
        self._found = []

    @contextmanager
    def _draft(self) -> Iterator[Engine]:
        """A copy of the engine for a change in the making. What becomes of it, and of layers, optimizer and generator,
        comes to be all at once when the block ends, and not at all if it raises."""
        draft, change = object.__new__(type(self)), Transaction()
        before = {**vars(self), "_transaction": change}
        vars(draft).update(before)
        try:
            yield draft
            self._commit(draft, before, change)
        finally:
            change.forget()

    def _commit(self, draft: Engine, before: dict[str, Any], change: Transaction) -> None:
        if draft._begun:
            change.call(torch.Generator.set_state, self.generator, draft.generator.get_state())
            after = {**vars(draft), "sites": change.sites(draft.sites), "generator": self.generator, "_begun": False}
        else:
            after = vars(draft)
        change.assign(self, **{name: value for name, value in after.items() if value is not before.get(name)})
        change.commit()

    def _begin(self) -> None:
        """Puts drafts of the sites and the generator into a draft, and finds what the optimizer keeps for them."""
        if not self._begun:
            self._begun, self._states = True, States(self.optimizer)
            self.sites = [self._transaction.site(site) for site in self.sites]
            generator = torch.Generator(self.generator.device)
            self.generator = generator.set_state(self.generator.get_state())

    def _due(self) -> bool:
        """Whether the pattern changes in the step to come or, where the change comes first, before it."""
        return bool(self.sites) and not self.frozen and self.method.when.fires(self.steps)

    def _prepare_step(self) -> None:
        """The change that comes before the next step, unless it waits for the loss of the epoch that just ended."""
        period = self.method.steps_per_epoch
        if self.method.rule.needs_loss and period is not None and self.steps % period == 0 and not self.frozen:
            if self._loss_due and self.steps >= 2 * period:
                raise RuntimeError(
                    f"{self.method.name} looks at the training loss of every epoch: call epoch_end(train_loss) after "
                    f"each {period} steps"
                )
            self._loss_due = True
        elif self._due():
            self._change()

    def _followed(self, closure: Callable[[], Any] | None) -> Callable[[], Any] | None:
        """The closure after which, or else at once, the method's rule looks at the gradients."""
        if closure is None:
            self._follow()
            return None

        def followed() -> Any:
            loss = closure()
            self._follow()
            return loss

        return followed

    def _follow(self) -> None:
        for site in self.sites:
            if not site.parameter.numel():  # nothing to be stepped, and optimizers divide by its size
                site.parameter.grad = None
        self._each(self.method.rule.follow)

    @torch.no_grad()
    def _each(self, hook: Callable[..., None], *arguments: Any) -> None:
        """Calls a hook of the method's rule for every layer that got a gradient."""
        if self.frozen:
            return
        rates = {id(p): group["lr"] for group in self.optimizer.param_groups for p in group["params"]}
        for site in self.sites:
            if site.grad is None:
                continue
            if id(site.parameter) not in rates:
                raise ValueError(
                    f"{site.name} is trained, but the optimizer does not hold its weight: it was frozen when the "
                    "optimizer was built. Give it to add_param_group when you unfreeze it"
                )
            hook(site, self.steps, float(rates[id(site.parameter)]), *arguments)

    @torch.no_grad()
    def _change(self) -> None:
        self._begin()
        for site in self.sites:
            site.changes = {"flips": 0, "iou_last": 1.0}
        sites = [site for site in self.sites if site.learns]
        if self.method.update != "before" and sites:
            sites = [site for site in sites if not site.missed and self.passes.reaches(site)]
            if not sites:
                raise RuntimeError("the pattern changes in this step, but no backward pass reached a sparse layer")
        if not sites:
            return
        check_copies(sites, [self._followers_of(site) for site in sites], self._transaction)
        if self.method.storage == "nonzeros" or self.settled:
            self._rewire(sites)
        else:
            self._remask(sites)
        warn_of_collapse(self.sites)

    def _rewire(self, sites: Sequence[Site]) -> None:
        check_states(self.sites, self._states)
        self.passes.begin(self.steps)
        chosen = plan(self.method, sites, self.steps, self.generator, self.passes)
        needed = [exchange.kept + exchange.grow.numel() for exchange in chosen]
        rooms = capacities(self.method, sites, needed, self.steps)
        for site, exchange, capacity in zip(sites, chosen, rooms, strict=True):
            along = self._transaction, self._states, self._followers_of(site)
            self._note(site, site.rewire(*exchange, capacity, *along))

    def _remask(self, sites: Sequence[MasterSite | ParkedSite]) -> None:
        if self.method.storage == "parked":
            check_states(self.sites, self._states)
        with ops.host.gathered():
            chosen = masks(self.method, sites, self.steps, self.generator, self.method.rule.held(self.losses))
            if chosen is None:
                return
            # A device is waited for once, not for every layer.
            shared = [site.shared(mask) for site, mask in zip(sites, chosen, strict=True)]
            told = ops.host.numbers([*(ops.host.count(mask) for mask in chosen), *shared])
        counts, commons = told[: len(sites)], told[len(sites) :]
        total = sum(counts)
        for site, mask, count, common in zip(sites, chosen, counts, commons, strict=True):
            capacity = roomy(count, site.size, total, len(sites))
            along = self._transaction, self._states, self._followers_of(site)
            self._note(site, site.remask(mask, count, common, capacity, *along))

    def _note(self, site: LayerSite, reallocated: bool) -> None:
        self.reallocated |= reallocated
        self.rewired |= site.changes["flips"] > 0

    def _followers_of(self, site: LayerSite) -> list[Any]:
        return [layers[site.name] for layers in self.followers]

    def freeze(self) -> None:
        """Ends all changes of pattern. Layers with a dense weight become, in place, layers that hold their nonzeros
        only (`SparseLinear`, `SparseConv2d`), and the optimizer's state shrinks with them: their Parameters are new."""
        with self._draft() as draft:
            draft._settle()
            draft.frozen = True
        self._arm()

    def _settle(self) -> None:
        self._begin()
        if self.method.storage == "master" and not self.settled:
            check_states(self.sites, self._states)
            self.reallocated = True
            check_copies(self.sites, [self._followers_of(site) for site in self.sites], self._transaction)
        along = self._transaction, self._states
        self.sites = [site.settle(*along, self._followers_of(site)) for site in self.sites]
        self.settled = True

    def _advance(self, due: bool) -> None:
        """What a step does after the optimizer's, of a draft; `due`: the pattern changes in this step."""
        (self.rewired, self.reallocated), self._late, self._found = self._late, (False, False), []
        if self.method.update != "before" and due:
            self._change()
        self.steps += 1
        if self.method.update == "before":
            self._prepare_step()
        changed = self._due()
        if self.steps == self.method.freeze:
            self._settle()
            self.frozen |= self.steps >= self.method.when.stop
        self._return(changed)
        self._unarmed = True

    def _return(self, changed: bool) -> None:
        """Notes what the method is to return to, or returns there if the pattern has `changed`."""
        if self.steps == self.method.rule.rewind:
            self.origin = Origin.of(self.passes.model, self.optimizer, self.sites)
        elif self.origin is not None and changed:
            self.origin = self.origin.restore(self._transaction, self.passes.model, self.optimizer, self.sites)

    def _arm(self) -> bool:
        """Prepares the layers for the coming step: recording where growth needs it, nothing elsewhere. Returns whether
        they record."""
        growth = self.method.grow
        moment = self.method.rule.wants_moment(self.steps) and not self.frozen
        armed = growth is not None and growth.armed and self._due()
        armed |= moment and self.method.storage == "parked"
        for site in self.sites:
            site.arm() if armed else site.disarm()
            site.forget()
            if isinstance(site.module, MaskedLayer):
                gradient = "moment" if moment else self.method.rule.gradient
                if site.module.weight_gradient != gradient:  # modules set attributes slowly
                    site.module.weight_gradient = gradient
        self.passes.arm(armed)
        self._eager.switch(armed, self)
        self._unarmed = False
        return armed or moment

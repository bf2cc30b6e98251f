"""The engine: changes the patterns of a network while an optimizer trains it.

A step of training consists of the forward and backward passes, the optimizer's step and, when it is due, a change of
pattern. A method says in which order (`Method.order`). The table shows step t; `due(t)` is `Method.when.fires(t)`:

    order               before the first step   after the backward pass of step t      before the passes of step t + 1
    Order.AFTER         -                       the optimizer steps;                   -
      "step"                                    if due(t), the pattern changes
    Order.INSTEAD       -                       if due(t), the pattern changes;        -
      "replace"                                 else the optimizer steps
    Order.BEFORE        if due(0), the          the optimizer steps                    if due(t + 1), the pattern
      "before"          pattern changes                                                changes

The last two columns are one call of `Engine.step`, which does in turn:

1. The layers are checked: they have the patterns that the optimizer's state belongs to, and they are armed.
2. `Rule.after_backward` sees the gradients, the optimizer steps, `Rule.after_step` sees the weights.
3. A draft makes what changes together (`Draft.finish_step`): the pattern; the count of steps; at `Storage.until` the
   layers settle; at `Rule.rewind` a snapshot is taken, to which weights return after every later change. It is
   committed all at once.
4. The layers are armed for the coming step: they record inputs and output gradients if growth will need them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ...nn.probe import Needs
from .. import parallel
from ..change.averages import Averages
from ..growth.gradients import GrowthSource
from ..method import Method
from ..model.fully_sharded import renew_shards, reshard, sharders
from ..model.overrides import Key
from ..model.wrappers import bare, renew_reduction
from ..parts.orders import Order
from ..scoring.network import Loss
from ..sites.layer_site import LayerSite
from ..sites.storage import NONZEROS
from . import drivers
from .checks import check_network, check_order, check_reached, check_sparsity
from .discovery import followers_of, gradients_of, methods_of, share_patterns, share_weights, sites_of
from .draft import FirstChange, Progress, drafted, give_back
from .eager import EagerSteps


class Engine:
    """The layers of a model whose pattern a method changes, and what changes with them; see `Sparsifier`.

    Attributes:
        optimizer: the optimizer of all weights.
        sharders: the modules of the model that `fully_shard` was called on.
        inner: the engine of a `Sparsifier` that drives other layers and steps the optimizer; None: this one does.
        own: by layer name, the method at the sparsity of an override.
        now: how far training has come. A change of pattern exchanges it as a whole.
        gradients: the backward passes that growth takes its statistics from.
        followers: for each copy of the model that follows it, its layers by name.
        averages: what else follows it: tensors for each Parameter.
        shrunk: tensors of a change of pattern that was interrupted when it was over, but had not given memory back.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: Method,
        followers: Sequence[Any],
        batches: GrowthSource | None,
        loss: Loss | None,
        generator: torch.Generator | None,
        layers: Sequence[Key] = (),
        inner: Engine | None = None,
    ) -> None:
        self.model, self.optimizer, self.method, self.inner = bare(model), optimizer, method, inner
        self.sharders = sharders(self.model)
        reshard(self.sharders)
        self.gradients = gradients_of(model, method, batches, loss)
        storage = method.resolved_storage
        self.now = Progress(sites_of(model, method, layers), storage)
        sites = self.now.sites
        self.own = methods_of(sites, method)
        drivers.take(self, sites)
        check_network(sites, optimizer, method, self.sharders)
        for own, some in self.by_method(sites):
            check_sparsity(some, own)
        share_patterns(sites)
        if method.when.stop > 0:
            share_weights(sites)
        self.followers: list[dict[str, Any]] = []
        self.averages: list[Averages] = []
        for follower in followers:
            self.follow(follower)
        seed = parallel.shared(int(torch.randint(2**62, ()))) if generator is None else 0
        self.generator = generator or torch.Generator().manual_seed(seed)
        self._eager = EagerSteps()
        self.shrunk: list[torch.Tensor] = []
        for site in sites:
            site.optimizer = optimizer
        if sites and not isinstance(sites[0], storage.site):
            self.now.unloaded, self.now.settled, self.now.storage = True, True, NONZEROS
        else:
            self._start()
        self.arm()

    def _start(self) -> None:
        for site in self.now.sites:
            with torch.no_grad():
                site.tracked = self.method_of(site).rule.begin(site)
        originals = [site.active for site in self.now.sites]
        with drafted(self) as draft:
            draft.start()
        pairs = zip(self.now.sites, originals, strict=True)
        self.now.first = [FirstChange(site, old, site.active) for site, old in pairs if site.active is not old]

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.arm()  # copies of layers are not armed

    @property
    def order(self) -> Order:
        return self.method.order

    def due(self, now: Progress) -> bool:
        """Returns whether the pattern changes in the step to come or, where the change precedes it, before it."""
        return bool(now.sites) and not now.frozen and self.method.when.fires(now.steps)

    @property
    def chain(self) -> list[Engine]:
        """This engine and those inside it."""
        return [self, *([] if self.inner is None else self.inner.chain)]

    def method_of(self, site: LayerSite) -> Method:
        """Returns the method at the sparsity of a layer."""
        return self.own.get(site.name, self.method)

    def by_method(self, sites: Sequence[Any]) -> list[tuple[Method, list[Any]]]:
        """Returns the sites that share a sparsity, with the method at this sparsity."""
        found: dict[int, tuple[Method, list[Any]]] = {}
        for site in sites:
            method = self.method_of(site)
            found.setdefault(id(method), (method, []))[1].append(site)
        return list(found.values())

    def followers_of(self, site: LayerSite) -> list[Any]:
        return [layers[site.name] for layers in self.followers if site.name in layers]

    def follow(self, copy: Any) -> None:
        """Lets a copy of the model, or an object that keeps a tensor for each Parameter, follow its changes."""
        if isinstance(copy, nn.Module):
            layers = followers_of(copy, self.now.sites, {each.site.name: each.original for each in self.now.first})
            if layers not in self.followers:
                self.followers.append(layers)
        elif all(each.holder is not copy for each in self.averages):
            self.averages.append(Averages(copy, self.model))

    # ---- a step

    def step(self, closure: Callable[[], Any] | None, update: bool = True) -> Any:
        """Makes one step of training, after its backward pass or with a closure that makes it. `update`: the optimizer
        steps, unless a change of pattern takes the place of that."""
        reshard(self.sharders)
        self._check()
        due = self.due(self.now)
        replaced = due and self.order.replaces_step
        update = update and not replaced
        loss = self._update(closure if replaced else self._observed(closure), update)
        if replaced:
            self._note_reached()
        if update:
            self._each("after_step", self.generator)
        with drafted(self) as draft:
            draft.finish_step(due)
        self.arm()
        return loss

    def _update(self, closure: Callable[[], Any] | None, update: bool) -> Any:
        if self.inner is not None:
            return self.inner.step(closure, update)
        if update:
            return self.optimizer.step(closure)  # type: ignore[arg-type]
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def _check(self) -> None:
        give_back(self)
        check_order(self.now.sites, self.sharders)
        drivers.check(self, self.now.sites)
        for site in self.now.sites:
            site.check_loaded(self.optimizer)
        if self.now.unloaded:
            raise RuntimeError(
                f"the layers hold nonzeros only, as in a run that {self.method.name} has settled: load the state of "
                f"its Sparsifier; a new run begins with sparsify(model, {self.method.name}) of a dense model"
            )
        if not self.now.armed and self.arm():
            raise RuntimeError(
                "the last step was interrupted before the layers could record this one: call zero_grad, and compute "
                "the gradients again"
            )
        if self.now.steps == 0:
            check_reached(self.now.sites)

    def _observed(self, closure: Callable[[], Any] | None) -> Callable[[], Any] | None:
        """Returns the closure after which the method's rule looks at the gradients; without one it does so at once."""
        if closure is None:
            self._observe()
            return None

        def observed() -> Any:
            loss = closure()
            self._observe()
            return loss

        return observed

    def _note_reached(self) -> None:
        """Notes which layers got a gradient, which the optimizer may clear."""
        for site in self.now.sites:
            site.reached = site.parameter.grad is not None

    def _observe(self) -> None:
        self._note_reached()
        for site in self.now.sites:
            if not site.parameter.numel():  # nothing to be stepped, and optimizers divide by its size
                site.parameter.grad = None
        self._each("after_backward")

    @torch.no_grad()
    def _each(self, hook: str, *arguments: Any) -> None:
        """Calls a hook of the method's rule for every layer that got a gradient."""
        if self.now.frozen:
            return
        rates = {id(p): group["lr"] for group in self.optimizer.param_groups for p in group["params"]}
        for site in self.now.sites:
            if site.parameter.grad is None:
                continue
            if id(site.parameter) not in rates:
                raise ValueError(
                    f"{site.name} is trained, but the optimizer does not hold its weight: it was frozen when the "
                    "optimizer was built (give it to add_param_group when you unfreeze it), or another Parameter has "
                    "taken its place (load_state_dict(assign=True): load without assign)"
                )
            rate = float(rates[id(site.parameter)])
            getattr(self.method_of(site).rule, hook)(site, self.now.steps, rate, *arguments)

    def arm(self) -> bool:
        """Prepares the layers for the coming step: they record where growth needs it, and nothing elsewhere. Returns
        whether they record."""
        self._renew()
        rule, growth = self.method.rule, self.method.grow
        gradient = rule.gradient(self.now.steps)
        if gradient == "moment" and self.now.frozen:
            gradient = "dense"
        moment = gradient == "moment"
        needs: Needs | None = "moment" if moment and self.now.storage.probes_moments else None
        if growth is not None and growth.armed and self.due(self.now):
            needs = growth.needs if needs is None else "pairs"
        for site in self.now.sites:
            site.prepare(needs, gradient)
        self.gradients.arm(needs is not None)
        self._eager.switch(needs is not None or moment, self)
        self.now.armed = True
        return needs is not None or moment

    def _renew(self) -> None:
        """Tells wrappers of the model that Parameters were replaced."""
        if self.now.replaced:
            renew_reduction([site.module for site in self.now.sites])
            renew_shards(self.sharders)
            self.now.replaced = False

    # ---- between steps

    def zero_grad(self, set_to_none: bool) -> None:
        """Clears gradients, and what an armed step has recorded so far."""
        self.optimizer.zero_grad(set_to_none)
        for engine in self.chain:
            if not engine.now.armed or engine.now.replaced:
                engine.arm()
            for site in engine.now.sites:
                site.forget()

    def epoch_end(self, train_loss: float) -> None:
        """Notes the mean training loss of an epoch; on several ranks, the mean of theirs."""
        reshard(self.sharders)
        losses = parallel.gathered(float(train_loss))
        for engine in self.chain:
            with drafted(engine) as draft:
                draft.finish_epoch(sum(losses) / len(losses))
            engine._renew()

    def freeze(self) -> None:
        """Ends all changes of pattern; layers settle."""
        reshard(self.sharders)
        with drafted(self) as draft:
            draft.settle()
            draft.now.frozen = True
        self.arm()

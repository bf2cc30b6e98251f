"""The engine: stands where the optimizer stood and changes the patterns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from . import parallel
from .master import MasterSite, ParkedSite
from .method import Method
from .passes import Batches
from .report import Report, site_row
from .site import LayerSite, Site
from .sites import check_held, followers_of, pack, passes_of, sites_of, unpack
from .stance import EagerSteps
from .start import roomy
from .starts import Loss
from .update import capacities, masks, plan, warn_of_collapse

REFUSED = ("Muon", "LBFGS", "SparseAdam")


class Sparsifier(torch.optim.Optimizer):
    """Wraps an optimizer; the training loop stays as it was.

    `.step()` steps the optimizer, except where a method's change of pattern takes the step's place, and changes the
    patterns when the method says so. All else (`param_groups`, `state`, ...) is the optimizer's own, so that learning
    rate schedulers and `GradScaler` take it for one. In a step whose backward pass gathers growth statistics, layers
    record their inputs and output gradients, and compiled code runs eagerly. A frozen layer keeps its pattern, and so
    does one that the gradient does not reach in such a step.

    Args:
        model: a model after `sparsify`.
        optimizer: built from the model's parameters after `sparsify`; any with per-element state.
        followers: copies of the model (`AveragedModel`, EMA) whose patterns follow the model's.
        batches: for a method that grows by the gradients of more than one batch (`gse_*(batches=)`): an iterable of
            (x, y), of which every change takes the first ones anew, or a function of the step that returns one. The
            model computes them as it stands after the step, in its own precision, and is left as it was.
        loss: `loss(output, y)` of these batches, mean over the batch.
        generator: source of the method's random choices; seeded from PyTorch's default one if None.

    Attributes:
        steps: completed calls of `step`.
        rewired: whether the last step changed a pattern.
        reallocated: whether the last step replaced a Parameter because a layer outgrew its capacity, or gave room back
            as it was pruned: wrap the model in `DistributedDataParallel` again, and expect one recompilation.

    Raises:
        ValueError: the optimizer is Muon, LBFGS or SparseAdam, or does not hold the model's sparse weights that require
            a gradient; a follower lacks a layer; the method needs `batches` and `loss`, and they are missing.
    """

    # `GradScaler` would hand its scale to a fused optimizer as attributes of this object. So it unscales the gradients.
    _step_supports_amp_scaling = False

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: Method,
        *,
        followers: Sequence[nn.Module] = (),
        batches: Batches | None = None,
        loss: Loss | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if type(optimizer).__name__ in REFUSED:
            raise ValueError(
                f"{type(optimizer).__name__} keeps no state per weight that could follow a weight; use an optimizer "
                "like SGD, Adam or AdamW"
            )
        if not isinstance(method, Method):
            raise ValueError(f"expected a Method (sparsekern.methods.NAME(...)), got {method!r}")
        self.optimizer, self.method = optimizer, method
        self.passes = passes_of(model, method, batches, loss)
        self.sites: list[Any] = sites_of(model, method)
        check_held(self.sites, optimizer)
        self.followers = [followers_of(follower, self.sites) for follower in followers]
        seed = parallel.common_seed(int(torch.randint(2**62, ()))) if generator is None else 0
        self.generator = generator or torch.Generator().manual_seed(seed)
        self.steps = 0
        self.losses: list[float] = []  # mean training loss of every epoch
        self.frozen = False
        self.rewired = self.reallocated = False
        self._loss_due = False  # the change of pattern waits for the epoch's loss
        self._eager = EagerSteps()
        for site in self.sites:
            site.optimizer = optimizer
            with torch.no_grad():
                site.tracked = method.rule.begin(site)
        if method.update == "before" and method.when.fires(0):
            self._change()
        self._arm()

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, made together with the model; without a scheduler's wrapper of `step`."""
        return {key: value for key, value in self.__dict__.items() if key != "step"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._arm()  # copies of layers are not armed

    def __repr__(self) -> str:
        return f"Sparsifier({self.method.name}, {self.optimizer!r})"

    # ---- the optimizer's interface

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step; see the class."""
        for site in self.sites:
            site.check_loaded(self.optimizer)
        due = self._due()
        self.rewired = self.reallocated = False
        if self.method.update == "replace" and due:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
        else:
            loss = self.optimizer.step(self._followed(closure))  # type: ignore[arg-type]
            self._each(self.method.rule.stepped, self.generator)
        if self.method.update != "before" and due:
            self._change()
        self.steps += 1
        if self.method.update == "before":
            self._prepare_step()
        if self.steps == self.method.freeze:
            self.freeze()
        self._arm()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears gradients, and what an armed step has recorded so far."""
        self.optimizer.zero_grad(set_to_none)
        for site in self.sites:
            site.forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.optimizer.add_param_group(param_group)

    def epoch_end(self, train_loss: float) -> None:
        """Tells the method that an epoch ended with this mean training loss; call it after the epoch's last step."""
        self.losses.append(float(parallel.mean(torch.tensor(float(train_loss), dtype=torch.double))))
        if self._loss_due:
            self._loss_due = False
            if self._due():
                self._change()

    @property
    def epochs(self) -> int:
        """Calls of `epoch_end`."""
        return len(self.losses)

    # ---- changes of pattern

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
        self._each(self.method.rule.follow)

    @torch.no_grad()
    def _each(self, hook: Callable[..., None], *arguments: Any) -> None:
        """Calls a hook of the method's rule for every layer that got a gradient."""
        if self.frozen:
            return
        rates = {id(p): group["lr"] for group in self.optimizer.param_groups for p in group["params"]}
        for site in self.sites:
            if site.grad is not None:
                hook(site, self.steps, float(rates[id(site.parameter)]), *arguments)

    @torch.no_grad()
    def _change(self) -> None:
        for site in self.sites:
            site.changes = {"flips": 0, "iou_last": 1.0}
        sites = [site for site in self.sites if site.learns]
        if self.method.update != "before" and sites:
            sites = [site for site in sites if not site.missed and self.passes.reaches(site)]
            if not sites:
                raise RuntimeError("the pattern changes in this step, but no backward pass reached a sparse layer")
        if not sites:
            return
        if self.method.storage == "nonzeros":
            self._rewire(sites)
        else:
            self._remask(sites)
        warn_of_collapse(self.sites)

    def _rewire(self, sites: Sequence[Site]) -> None:
        self.passes.begin(self.steps)
        chosen = plan(self.method, sites, self.steps, self.generator, self.passes)
        needed = [int(keep.count_nonzero()) + grow.numel() for keep, grow in chosen]
        rooms = capacities(self.method, sites, needed, self.steps)
        for site, (keep, grow), capacity in zip(sites, chosen, rooms, strict=True):
            self._note(site, site.rewire(keep, grow, capacity, self.optimizer, self._followers_of(site)))

    def _remask(self, sites: Sequence[MasterSite | ParkedSite]) -> None:
        chosen = masks(self.method, sites, self.steps, self.generator, self.method.rule.held(self.losses))
        if chosen is None:
            return
        counts = [int(mask.count_nonzero()) for mask in chosen]
        for site, mask, count in zip(sites, chosen, counts, strict=True):
            capacity = roomy(count, site.size, sum(counts), len(sites))
            self._note(site, site.remask(mask, count, capacity, self.optimizer, self._followers_of(site)))

    def _note(self, site: LayerSite, reallocated: bool) -> None:
        self.reallocated |= reallocated
        self.rewired |= site.changes["flips"] > 0

    def _followers_of(self, site: LayerSite) -> list[Any]:
        return [layers[site.name] for layers in self.followers]

    def freeze(self) -> None:
        """Ends all changes of pattern. Layers with a dense weight become, in place, layers that hold their nonzeros
        only (`SparseLinear`, `SparseConv2d`), and the optimizer's state shrinks with them: their Parameters are new."""
        self.reallocated |= self.method.storage == "master" and not self.frozen
        self.sites = [site.settle(self.optimizer, self._followers_of(site)) for site in self.sites]
        self.frozen = True
        self._arm()

    def _arm(self) -> None:
        """Prepares the layers for the coming step: recording where growth needs it, nothing elsewhere."""
        growth = self.method.grow
        moment = self.method.rule.wants_moment(self.steps) and not self.frozen
        armed = growth is not None and growth.armed and self._due()
        armed |= moment and self.method.storage == "parked"
        for site in self.sites:
            site.arm() if armed else site.disarm()
            site.forget()
            if isinstance(site, MasterSite):
                site.module.weight_gradient = "moment" if moment else self.method.rule.gradient
        self.passes.arm(armed)
        self._eager.switch(armed, self)

    # ---- reports and files

    def kept_bytes(self, layer: nn.Module) -> int:
        """What is kept for a layer's weights beside the layer and the optimizer: numbers that the method follows,
        parked weights and their state, the mask in use."""
        return sum(t.nbytes for site in self.sites if site.module is layer for t in site.kept())

    def report(self) -> Report:
        """Per layer: shape, nnz, sparsity, flips, IoU with the last and the first pattern, kernel in use."""
        return Report(self.method.name, self.steps, self.method.notes, [site_row(site) for site in self.sites])

    def state_dict(self) -> dict[str, Any]:
        """Optimizer state with `[nnz]` entries for sparse weights, counters, generator, and each layer's kernel."""
        return {
            "method": self.method.name,
            "steps": self.steps,
            "losses": list(self.losses),
            "loss_due": self._loss_due,
            "frozen": self.frozen,
            "generator": self.generator.get_state(),
            "optimizer": pack(self.optimizer, self.sites),
            "sites": {site.name: site.state() for site in self.sites},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`; load the model's own state first.

        Raises:
            ValueError: the state is of another method or model, or the model's state was not loaded before.
        """
        if state_dict.get("method") != self.method.name:
            raise ValueError(f"expected the state of method {self.method.name}, got {state_dict.get('method')}")
        saved = state_dict["sites"]
        if set(saved) != {site.name for site in self.sites}:
            raise ValueError(f"the state is of a model with the sparse layers {', '.join(saved) or '(none)'}")
        for site in self.sites:
            if saved[site.name]["nnz"] != site.nnz:
                raise ValueError(
                    f"{site.name} has {site.nnz} nonzeros, its state {saved[site.name]['nnz']}: load the state of the "
                    "model before that of the sparsifier"
                )
        if state_dict["frozen"]:
            self.freeze()
        for site in self.sites:
            site.fit(saved[site.name], self.optimizer, self._followers_of(site))
        unpack(self.optimizer, self.sites, state_dict["optimizer"])
        for site in self.sites:
            site.load_state(saved[site.name])
        self.steps, self.losses = state_dict["steps"], list(state_dict["losses"])
        self._loss_due = state_dict["loss_due"]
        self.generator.set_state(state_dict["generator"].cpu())
        self._arm()

"""What stands where the optimizer stood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .. import private_torch
from ..nn import flops
from . import parallel
from .engine.checks import check_reached, check_saved, renamed
from .engine.engine import Engine
from .engine.optimizer_files import pack, unpack
from .engine.report import Report, remarks, site_row
from .engine.snapshot import Origin
from .growth.gradients import Batches
from .method import Method
from .scoring.network import Loss

REFUSED = ("Muon", "LBFGS", "SparseAdam")


class Sparsifier(Engine, torch.optim.Optimizer):
    """Wraps an optimizer; the training loop stays as it was.

    `.step()` steps the optimizer, except where a method's change of pattern takes the step's place, and changes the
    patterns when the method says so. All else (`param_groups`, `state`, ...) is the optimizer's own, so that learning
    rate schedulers and `GradScaler` take it for one. In a step whose backward pass gathers growth statistics, layers
    record their inputs and output gradients, and compiled code runs eagerly. A frozen layer keeps its pattern, and so
    does one that the gradient does not reach in such a step.

    A change of pattern comes as a whole or not at all: whatever is raised in `step`, Ctrl-C included, finds patterns,
    weights, optimizer state and counts as they were before the change or, if it is over, as they are after it. If it
    has not come, the optimizer's own update may have been made already; then the step is not counted, and its change is
    due again in the next call of `step`, after the gradients of another forward and backward pass.

    Nonzeros are a vector: where only some weights decay, tell these by `p.dim() > 1 or name.endswith("values")`.
    Of optimizers that wrap others (SAM, Lookahead) `step(closure)` is called; what they keep per weight follows, too.

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
        rewired: whether the last step, or a call of `epoch_end` since the one before it, changed a pattern.
        reallocated: whether they replaced a Parameter because a layer outgrew its capacity, or gave room back
            as it was pruned: wrap the model in `DistributedDataParallel` again, and expect one recompilation.

    Raises:
        ValueError: the optimizer is Muon, LBFGS or SparseAdam, or does not hold the model's sparse weights that require
            a gradient, or keeps what could not follow them; the model has another sparsity than the method, which keeps
            it; a weight whose pattern is to change is sharded; a follower lacks a layer; the method needs `batches` and
            `loss`, and they are missing.
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
        super().__init__(model, optimizer, method, followers, batches, loss, generator)

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":
            raise AttributeError(name)
        if name in ("first_step", "second_step"):  # of SAM
            raise AttributeError(f"{name} goes past the Sparsifier: call step(closure), which takes both steps")
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

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.optimizer.state = state

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: Any) -> None:
        self.optimizer.param_groups = groups

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step; see the class."""
        for site in self.sites:
            site.check_loaded(self.optimizer)
        if self._unloaded:
            raise RuntimeError(
                f"the layers hold nonzeros only, as in a run that {self.method.name} has settled: load the state of "
                f"its Sparsifier; a new run begins with sparsify(model, {self.method.name}) of a dense model"
            )
        if self._unarmed and self._arm():
            raise RuntimeError(
                "the last step was interrupted before the layers could record this one: call zero_grad, and compute "
                "the gradients again"
            )
        if self.steps == 0:
            check_reached(self.sites)
        due = self._due()
        if self.method.update == "replace" and due:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
        else:
            loss = self.optimizer.step(self._followed(closure))  # type: ignore[arg-type]
            self._each(self.method.rule.stepped, self.generator)
        with self._draft() as draft:
            draft._advance(due)
        self._arm()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears gradients, and what an armed step has recorded so far."""
        self.optimizer.zero_grad(set_to_none)
        if self._unarmed:
            self._arm()
        for site in self.sites:
            site.forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.optimizer.add_param_group(param_group)

    def epoch_end(self, train_loss: float) -> None:
        """Tells the method that an epoch ended with this mean training loss; call it after the epoch's last step."""
        loss = float(parallel.mean(torch.tensor(float(train_loss), dtype=torch.double)))
        with self._draft() as draft:
            draft.losses = [*self.losses, loss]
            if self._loss_due:
                draft._loss_due = False
                if self._due():
                    draft.rewired = draft.reallocated = False
                    draft._change()
                    draft._late = draft.rewired, draft.reallocated

    @property
    def epochs(self) -> int:
        """Calls of `epoch_end`."""
        return len(self.losses)

    # ---- reports and files

    def kept_bytes(self, layer: nn.Module) -> int:
        """What is kept for a layer's weights beside the layer and the optimizer: numbers that the method follows,
        parked weights and their state, the mask in use, what the method returns to."""
        sites = [site for site in self.sites if site.module is layer]
        return sum(t.nbytes for s in sites for t in (*s.kept(), *(self.origin.kept(s) if self.origin else ())))

    def report(self, *inputs: Any, **options: Any) -> Report:
        """Per layer: shape, nnz, sparsity, flips, IoU with the last and the first pattern, kernel in use; of the model
        what is dense. If it is told what the model is called with, one sample for instance, also what that costs
        (`flops`)."""
        cost = flops(self.passes.model, *inputs, **options) if inputs or options else None
        notes = (*self.method.notes, *remarks(self.passes.model, self.sites, self.optimizer))
        return Report(self.method.name, self.steps, notes, [site_row(site) for site in self.sites], cost)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer state with `[nnz]` entries for sparse weights, counters, generator, and each layer's kernel.

        Raises:
            RuntimeError: `torch.distributed.checkpoint.state_dict` asks, which would keep the optimizer's state only.
        """
        _refuse_parts()
        return {
            "method": self.method.name,
            "steps": self.steps,
            "losses": list(self.losses),
            "loss_due": self._loss_due,
            "settled": self.settled,
            "frozen": self.frozen,
            **({"unloaded": True} if self._unloaded else {}),
            "origin": None if self.origin is None else self.origin.state(),
            "generator": self.generator.get_state(),
            "optimizer": pack(self.optimizer, self.sites),
            "sites": {site.name: site.state() for site in self.sites},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`; load the model's own state first.

        Raises:
            ValueError: the state is of another method or model, or the model's state was not loaded before.
        """
        _refuse_parts()
        if state_dict.get("method") != self.method.name:
            raise ValueError(f"expected the state of method {self.method.name}, got {state_dict.get('method')}")
        saved = renamed(self.sites, state_dict["sites"])
        if state_dict["steps"]:  # otherwise the state is of what the first change made
            with self._draft() as draft:
                draft._come_back()
        check_saved(self.sites, saved)
        if self._unloaded and not state_dict["settled"]:
            raise ValueError("the layers hold nonzeros only, but the state is of a run whose layers had dense weights")
        with self._draft() as draft:
            draft._begin()
            if state_dict["settled"]:
                draft._settle()
            draft.frozen = state_dict["frozen"]
            for site in draft.sites:
                site.fit(saved[site.name], draft._transaction, draft._states, self._followers_of(site))
        unpack(self.optimizer, self.sites, state_dict["optimizer"])
        for site in self.sites:
            site.load_state(saved[site.name])
        self.steps, self.losses = state_dict["steps"], list(state_dict["losses"])
        self._loss_due = state_dict["loss_due"]
        self._unloaded = state_dict.get("unloaded", False)
        self.origin = Origin.loaded(state_dict["origin"], self.sites) if state_dict["origin"] else None
        self.generator.set_state(state_dict["generator"].cpu())
        self._arm()


def _refuse_parts() -> None:
    """Patterns, counters and generators would be lost without a word."""
    if private_torch.called_by_checkpoint():
        raise RuntimeError(
            "get_optimizer_state_dict and set_optimizer_state_dict keep the state of the optimizer only: save and load "
            "Sparsifier.state_dict() itself, with torch.save on one rank or as a part of what dcp.save gets"
        )

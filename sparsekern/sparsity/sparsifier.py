"""The engine: stands where the optimizer stood and changes the patterns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import SparseLayer
from . import parallel
from .method import Method
from .passes import ArmedStep, Batches, GrowthBatches
from .report import Report, site_row
from .site import Site
from .start import roomy
from .starts import Loss
from .update import plan, warn_of_collapse

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
        reallocated: whether the last step replaced a Parameter because a layer outgrew its capacity: wrap the model
            in `DistributedDataParallel` again, and expect one recompilation.

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
        self.passes = _passes(model, method, batches, loss)
        self.sites = [Site(_plain(n), m) for n, m in model.named_modules() if isinstance(m, SparseLayer)]
        _check_held(self.sites, optimizer)
        if not self.sites and method.storage != "dense":
            raise ValueError(f"the model has no sparse layer: call sparsify(model, {method.name}) first")
        self.followers = [_sparse_layers(follower, self.sites) for follower in followers]
        seed = parallel.common_seed(int(torch.randint(2**62, ()))) if generator is None else 0
        self.generator = generator or torch.Generator().manual_seed(seed)
        self.steps, self.epochs = 0, 0
        self.rewired = self.reallocated = False
        self._stance_set = False
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

    def __repr__(self) -> str:
        return f"Sparsifier({self.method.name}, {self.optimizer!r})"

    # ---- the optimizer's interface

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step; see the class."""
        for site in self.sites:
            site.check_loaded(self.optimizer)
        due = bool(self.sites) and self.method.when.fires(self.steps)
        replaced = due and self.method.update == "replace"
        if not replaced:
            loss = self.optimizer.step(closure)  # type: ignore[arg-type]
        elif closure is not None:
            with torch.enable_grad():
                loss = closure()
        else:
            loss = None
        self.rewired = self.reallocated = False
        if due:
            self._change()
        self.steps += 1
        self._arm()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears gradients, and what an armed step has recorded so far."""
        self.optimizer.zero_grad(set_to_none)
        for site in self.sites:
            if site.module.probe is not None:
                site.module.probe.records.clear()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.optimizer.add_param_group(param_group)

    def epoch_end(self, train_loss: float) -> None:
        """Tells the method that an epoch ended with this mean training loss."""
        self.epochs += 1

    # ---- changes of pattern

    @torch.no_grad()
    def _change(self) -> None:
        sites = [site for site in self.sites if site.learns and self.passes.reaches(site)]
        for site in self.sites:
            site.changes = {"flips": 0, "iou_last": 1.0}
        if not sites:
            if any(site.module.values.requires_grad for site in self.sites):
                raise RuntimeError("the pattern changes in this step, but no backward pass reached a sparse layer")
            return
        total = sum(site.nnz for site in self.sites)
        self.passes.begin(self.steps)
        for site, (keep, grow) in zip(
            sites, plan(self.method, sites, self.steps, self.generator, self.passes), strict=True
        ):
            needed = int(keep.sum()) + grow.numel()
            capacity = roomy(needed, site.size, total, len(self.sites)) if needed > site.active.capacity else 0
            followers = [layers[site.name] for layers in self.followers]
            self.reallocated |= site.rewire(keep, grow, capacity, self.optimizer, followers)
            self.rewired |= site.changes["flips"] > 0
        warn_of_collapse(self.sites)

    def _arm(self) -> None:
        """Prepares the layers for the coming step: recording where growth needs it, nothing elsewhere."""
        growth = self.method.grow
        armed = growth is not None and growth.armed and self.method.when.fires(self.steps)
        for site in self.sites:
            site.arm() if armed else site.disarm()
        self.passes.arm(armed)
        if armed != self._stance_set and "torch._dynamo" in sys.modules:
            torch.compiler.set_stance("force_eager" if armed else "default")
            self._stance_set = armed

    # ---- reports and files

    def report(self) -> Report:
        """Per layer: shape, nnz, sparsity, flips, IoU with the last and the first pattern, kernel in use."""
        return Report(self.method.name, self.steps, self.method.notes, [site_row(site) for site in self.sites])

    def state_dict(self) -> dict[str, Any]:
        """Optimizer state with `[nnz]` entries for sparse weights, counters, generator, and each layer's kernel."""
        state = self.optimizer.state_dict()
        lengths = self._lengths()
        trimmed = {
            i: {k: _trim(t, *lengths[i]) if i in lengths else t for k, t in own.items()}
            for i, own in state["state"].items()
        }
        return {
            "method": self.method.name,
            "steps": self.steps,
            "epochs": self.epochs,
            "generator": self.generator.get_state(),
            "optimizer": {**state, "state": trimmed},
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
        lengths = self._lengths()
        packed = state_dict["optimizer"]
        padded = {
            i: {k: _pad(t, *lengths[i]) if i in lengths else t for k, t in own.items()}
            for i, own in packed["state"].items()
        }
        self.optimizer.load_state_dict({**packed, "state": padded})
        for site in self.sites:
            site.load_state(saved[site.name])
        self.steps, self.epochs = state_dict["steps"], state_dict["epochs"]
        self.generator.set_state(state_dict["generator"].cpu())
        self._arm()

    def _lengths(self) -> dict[int, tuple[int, int]]:
        """(nnz, capacity) of every sparse weight by its number in the optimizer."""
        own = {id(site.module.values): (site.nnz, site.active.capacity) for site in self.sites}
        order = [p for group in self.optimizer.param_groups for p in group["params"]]
        return {i: own[id(p)] for i, p in enumerate(order) if id(p) in own}


def _passes(model: nn.Module, method: Method, batches: Batches | None, loss: Loss | None) -> ArmedStep:
    count = method.grow.batches if method.grow is not None else 1
    if count == 1:
        return ArmedStep(model, watches=method.grow is not None and method.grow.inputs)
    if batches is None or loss is None:
        raise ValueError(
            f"{method.name} grows by the gradients of {count} batches: pass Sparsifier(batches=, loss=), batches an "
            "iterable of (x, y) or a function of the step"
        )
    return GrowthBatches(model, batches, loss, count)


def _trim(value: Any, nnz: int, capacity: int) -> Any:
    return value[:nnz].clone() if isinstance(value, Tensor) and value.shape == (capacity,) else value


def _pad(value: Any, nnz: int, capacity: int) -> Any:
    if not isinstance(value, Tensor) or value.shape != (nnz,):
        return value
    return torch.cat([value, value.new_zeros(capacity - nnz)])


def _plain(name: str) -> str:
    """A module's name without the wrappers of DDP, `AveragedModel` and `torch.compile`."""
    return ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod"))


def _sparse_layers(model: nn.Module, sites: Sequence[Site]) -> dict[str, SparseLayer]:
    layers = {_plain(n): m for n, m in model.named_modules() if isinstance(m, SparseLayer)}
    for site in sites:
        if site.name not in layers:
            raise ValueError(f"a follower lacks the sparse layer {site.name}: copy it from the model after sparsify")
        if not layers[site.name].topology.same_pattern(site.active):
            raise ValueError(f"a follower's {site.name} has another pattern than the model's: copy it again")
    return layers


def _check_held(sites: Sequence[Site], optimizer: torch.optim.Optimizer) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [s.name for s in sites if s.module.values.requires_grad and id(s.module.values) not in held]
    if missing:
        warn = "was it built before sparsify? Build it from model.parameters() afterwards"
        raise ValueError(f"the optimizer does not hold the sparse weights of {', '.join(missing)}; {warn}")

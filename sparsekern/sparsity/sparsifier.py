"""`Sparsifier`: takes the optimizer's place in a training loop, and changes the patterns of the model as it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from .. import private_torch
from ..nn import flops
from .engine import state_dict as files
from .engine.engine import Engine
from .engine.report import Report, parameters, remarks, site_row
from .growth.gradients import GrowthSource
from .method import Method
from .model.overrides import Key
from .scoring.network import Loss

REFUSED = ("Muon", "LBFGS", "SparseAdam")


class Sparsifier(torch.optim.Optimizer):
    """Wraps an optimizer; the training loop stays as it was.

    `.step()` steps the optimizer, except where a method's change of pattern takes the step's place, and changes the
    patterns when the method says so. `param_groups`, `state`, `defaults` and every attribute that is not here are the
    optimizer's own, so learning rate schedulers and `GradScaler` work. Hooks (`register_step_pre_hook`, ...) belong to
    the Sparsifier: they are called once a step, and with its state dict.

    In a step whose backward pass gathers growth statistics, layers record their inputs and output gradients, and
    compiled code runs eagerly. A frozen layer keeps its pattern, and so does one that the gradient does not reach in
    such a step.

    A change of pattern takes effect as a whole or not at all. Whatever is raised in `step`, Ctrl-C included, finds
    patterns, weights, optimizer state and counts as they were before the change or, if it is over, as they are after
    it. If the change has not taken effect, the optimizer may have stepped already. Then the step is not counted, and
    its change is due again in the next call of `step`, after the gradients of another forward and backward pass.

    Sparse weights are stored as a vector. Where only some weights decay, tell them by `p.dim() > 1 or
    name.endswith("values")`. Of optimizers that wrap others (SAM, Lookahead) `step(closure)` is called; their state per
    weight follows, too.

    Several methods share a model by a `Sparsifier` each, which drives the layers that `sparsify(overrides=)` made for
    its method, or those of `layers`, and touches no others. Each has an optimizer of its own, or one stands around the
    other, `Sparsifier(model, Sparsifier(model, optimizer, first), second)`: then the loop, the state dict and the
    report of the outer one are those of both. Where a change takes the place of the optimizer's step (`rigl`), it does
    so for all weights of this optimizer.

    Args:
        model: a model after `sparsify`.
        optimizer: built from the model's parameters after `sparsify`; any with per-element state. Or the `Sparsifier`
            of other layers.
        followers: copies of the model (`AveragedModel`, EMA) whose patterns follow the model's. Also averages that are
            kept as tensors: lists in the order of `model.parameters()`, dicts by the names of the Parameters, or
            objects with such attributes (`torch_ema`, diffusers' `EMAModel`).
        batches: for a method that grows by the gradients of more than one batch (`gse_*(batches=)`): an iterable of
            (x, y), of which every change takes the first ones anew, or a function of the step that returns one. The
            model computes them as it stands after the step, in its own precision, and is left as it was.
        loss: `loss(output, y)` of these batches, mean over the batch.
        generator: source of the method's random choices; seeded from PyTorch's default one if None.
        layers: the layers that the method drives, names, globs and classes as in `sparsify(overrides=)`; by default
            those that `sparsify` made for it, or all if it made them for one method.

    Raises:
        ValueError: the optimizer is Muon, LBFGS or SparseAdam, or does not hold the model's sparse weights that require
            a gradient, or keeps what could not follow them; the model has another sparsity than the method, which keeps
            it; a weight whose pattern is to change is sharded, but not by `fully_shard`, or the method does not go with
            that; a follower lacks a layer; the method needs `batches` and `loss`, and they are missing.

    Examples:
        >>> method = sk.methods.rigl(sparsity=0.9, total_steps=10_000)
        >>> model = sk.sparsify(model, method)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> optimizer = sk.Sparsifier(model, optimizer, method)
    """

    # The optimizer inside would not see the scale, so `GradScaler` unscales the gradients (private_torch.AMP_SCALING).
    _step_supports_amp_scaling = False
    engine: Engine

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: Method,
        *,
        followers: Sequence[Any] = (),
        batches: GrowthSource | None = None,
        loss: Loss | None = None,
        generator: torch.Generator | None = None,
        layers: Key | Iterable[Key] = (),
    ) -> None:
        if type(optimizer).__name__ in REFUSED:
            raise ValueError(
                f"{type(optimizer).__name__} keeps no state per weight that could follow a weight; use an optimizer "
                "like SGD, Adam or AdamW"
            )
        if not isinstance(method, Method):
            raise ValueError(f"expected a Method (sparsekern.methods.NAME(...)), got {method!r}")
        # The groups and state that this sets are discarded: there is no engine yet.
        super().__init__([{"params": []}], getattr(optimizer, "defaults", {}))
        inner = optimizer.engine if isinstance(optimizer, Sparsifier) else None
        optimizer = optimizer if inner is None else inner.optimizer
        keys = [layers] if isinstance(layers, str | type) else list(layers)
        self.engine = Engine(model, optimizer, method, followers, batches, loss, generator, keys, inner)

    def __getattr__(self, name: str) -> Any:
        if name in ("engine", "optimizer"):  # of a copy in the making
            raise AttributeError(name)
        if name in ("first_step", "second_step"):  # of SAM
            raise AttributeError(f"{name} goes past the Sparsifier: call step(closure), which takes both steps")
        return getattr(self.optimizer, name)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what copies and pickles hold, made together with the model: no hooks, as of every optimizer, and no
        scheduler's wrapper of `step`."""
        left_out = {"step", *private_torch.HOOKS.values()}
        return {key: value for key, value in vars(self).items() if key not in left_out}

    def __repr__(self) -> str:
        return f"Sparsifier({' + '.join(each.method.name for each in self.engine.chain)}, {self.optimizer!r})"

    # ---- what it is made of

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer inside."""
        return self.engine.optimizer

    @property
    def method(self) -> Method:
        """The method that it was made with."""
        return self.engine.method

    @property
    def sites(self) -> list[Any]:
        """The layers whose pattern the method drives, as it sees them."""
        return self.engine.now.sites

    @property
    def followers(self) -> list[dict[str, Any]]:
        """The layers of each follower, by name."""
        return self.engine.followers

    def follow(self, copy: Any) -> None:
        """Lets a copy of the model, or an average of its Parameters (EMA, SWA), follow its changes of pattern from
        here on, as `followers=` do.

        Raises:
            ValueError: it lacks a layer, or has another pattern than the model by now; it is neither.
        """
        self.engine.follow(copy)

    @property
    def generator(self) -> torch.Generator:
        """The source of the method's random choices."""
        return self.engine.generator

    # ---- what training has come to

    @property
    def steps(self) -> int:
        """Completed calls of `step`."""
        return self.engine.now.steps

    @property
    def losses(self) -> list[float]:
        """The mean training loss of every epoch."""
        return self.engine.now.losses

    @property
    def epochs(self) -> int:
        """Calls of `epoch_end`."""
        return len(self.losses)

    @property
    def rewired(self) -> bool:
        """Whether the last step, or a call of `epoch_end` since the one before it, changed a pattern."""
        return any(engine.now.rewired for engine in self.engine.chain)

    @property
    def reallocated(self) -> bool:
        """Whether they replaced a Parameter because a layer outgrew its capacity, or gave room back as it was pruned:
        expect one recompilation. `DistributedDataParallel` goes on with the new ones."""
        return any(engine.now.reallocated for engine in self.engine.chain)

    @property
    def settled(self) -> bool:
        """Whether layers with a dense weight have become layers that hold their nonzeros only."""
        return self.engine.now.settled

    @property
    def frozen(self) -> bool:
        """Whether no pattern changes any more."""
        return self.engine.now.frozen

    # ---- the optimizer's interface

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of the optimizer inside."""
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        if self._complete():
            self.optimizer.state = state

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        """The parameter groups of the optimizer inside."""
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: Any) -> None:
        if self._complete():
            self.optimizer.param_groups = groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self._complete():
            self.optimizer.add_param_group(param_group)

    def _complete(self) -> bool:
        """Returns whether there is an engine: `Optimizer.__init__` comes before it."""
        return "engine" in vars(self)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Steps the optimizer, and changes the patterns if that is due; see the class. Returns the closure's loss."""
        return self.engine.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears gradients, and what an armed step has recorded so far."""
        self.engine.zero_grad(set_to_none)

    def epoch_end(self, train_loss: float) -> None:
        """Tells the method that an epoch ended with this mean training loss. Call it after the epoch's last step."""
        self.engine.epoch_end(train_loss)

    def freeze(self) -> None:
        """Ends all changes of pattern. Layers with a dense weight become, in place, layers that hold their nonzeros
        only (`SparseLinear`, `SparseConv2d`), and the optimizer's state shrinks with them: their Parameters are new."""
        self.engine.freeze()

    # ---- reports and files

    def kept_bytes(self, layer: nn.Module) -> int:
        """Returns the bytes that are kept for a layer's weights beside the layer and the optimizer: the method's
        statistics, stashed weights and their state, the rewind snapshot."""
        pairs = [(site, each.now.snapshot) for each in self.engine.chain for site in each.now.sites]
        own = [(site, snapshot) for site, snapshot in pairs if site.module is layer]
        return sum(
            t.nbytes
            for s, snapshot in own
            for t in (*s.extra_tensors(), *(snapshot.extra_tensors(s) if snapshot else ()))
        )

    def report(self, *inputs: Any, **options: Any) -> Report:
        """Returns shape, nnz, sparsity, flips, IoU with the last and the first pattern, and the kernel of each layer.

        Args:
            inputs, options: what the model is called with, one sample for instance, to report what that costs, too
                (`flops`).
        """
        model = self.engine.model
        cost = flops(model, *inputs, **options) if inputs or options else None
        methods = [each.method for each in self.engine.chain]
        sites = [site for each in self.engine.chain for site in each.now.sites]
        notes = (*(note for method in methods for note in method.notes), *remarks(model, sites, self.optimizer))
        name, rows = " + ".join(method.name for method in methods), [site_row(site) for site in sites]
        return Report(name, self.steps, notes, rows, cost, parameters(model))

    def state_dict(self) -> dict[str, Any]:
        """Returns optimizer state with `[nnz]` entries for sparse weights, counters, and each layer's kernel.

        Raises:
            RuntimeError: `torch.distributed.checkpoint.state_dict` asks, which would keep the optimizer's state only.
        """
        _refuse_parts()
        for hook in private_torch.hooks(self, "state_dict_pre"):
            hook(self)
        state = files.state_of(self.engine)
        for hook in private_torch.hooks(self, "state_dict_post"):
            state = state if (other := hook(self, state)) is None else other
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`; load the model's own state first.

        Raises:
            ValueError: the state is of another method or model, or the model's state was not loaded before.
        """
        _refuse_parts()
        state = state_dict.copy()
        for hook in private_torch.hooks(self, "load_state_dict_pre"):
            state = state if (other := hook(self, state)) is None else other
        files.load(self.engine, state)
        for hook in private_torch.hooks(self, "load_state_dict_post"):
            hook(self)


def _refuse_parts() -> None:
    """Raises a `RuntimeError` where patterns, counters and generators would be lost without a word."""
    if private_torch.called_by_checkpoint():
        raise RuntimeError(
            "get_optimizer_state_dict and set_optimizer_state_dict keep the state of the optimizer only: save and load "
            "Sparsifier.state_dict() itself, with torch.save on one rank or as a part of what dcp.save gets"
        )

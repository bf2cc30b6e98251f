"""A layer's plan: its kernels for all densities, made by a table once, refined by its first input, kept in checkpoints.

A pattern that changes, a resumed run, or another table of crossovers thus leaves a layer with the kernels that it began
with, and its results with the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..private_torch import FakeTensor, untraced
from ..topology import Topology
from .effective import WeightAccess
from .kernel_choice import KERNELS, NONZEROS_ONLY, Choice, KernelPlan, Threshold, card_of
from .probe import Probe

UNSEEN, EVALUATED, TRAINED = 0, 1, 2  # by which inputs a plan was refined


class Workload(NamedTuple):
    """What a layer multiplies, as far as it is known: the number of its inputs, the height of images, and the dtype
    that it computes in."""

    batch: int | None
    size: int | None
    dtype: torch.dtype


Use = Workload  # the name in older pickles


class Planned(WeightAccess):
    """A layer with a plan.

    Attributes:
        kernel, reason: the kernel in use and why.
        plan: the kernels for all densities; None until the layer has a pattern.
        workload: what the plan was refined by; None before.
        refined: whether an input in evaluation (`EVALUATED`) or in training (`TRAINED`) has refined it.
    """

    kernel: str
    reason: str
    probe: Probe | None
    plan: KernelPlan | None = None
    workload: Workload | None = None
    refined: int = UNSEEN

    # ---- what a product and a layer define

    def new_plan(self, workload: Workload, card: str | None) -> KernelPlan:
        """Makes the plan for a workload, on the CPU or on a GPU of this name."""
        raise NotImplementedError

    def workload_of(self, input: Tensor) -> tuple[int, int | None] | None:
        """Returns the number of inputs in `input`, and the height of images; None if the layer does not take it."""
        raise NotImplementedError

    def _install(self, topology: Topology, kernel: str, reason: str) -> None:
        raise NotImplementedError

    # ---- the choice

    def choose_kernel(self, topology: Topology) -> Choice:
        """Chooses the kernel for a pattern: by the plan, if it is for this kind of device."""
        card = card_of(topology.device)
        if self.plan is None or (self.plan.card is None) != (card is None):
            self.plan = self.new_plan(self.workload or Workload(None, None, self.stored.dtype), card)
        return self.plan.at(1 - topology.sparsity)

    def refine(self, input: Tensor) -> None:
        """Makes the plan anew for inputs like this one: once in evaluation, and once in training, which counts from
        then on. Compiled code must not call it: it keeps the plan that it was compiled with, even in steps that run
        eagerly.

        Ranks of a data-parallel run whose first batches differ may choose different kernels. Their gradients are
        averaged, so that their weights stay the same; a resumed run has the plan of rank 0 on all of them.
        """
        stage = TRAINED if self.training and torch.is_grad_enabled() else EVALUATED
        real = not isinstance(input, FakeTensor) and not input.is_meta and input.numel() > 0
        sizes = self.workload_of(input) if real and self.probe is None else None
        if sizes is None or stage <= self.refined:
            return
        self.refined = stage
        with untraced():
            self._refine(sizes)

    def _refine(self, sizes: tuple[int, int | None]) -> None:
        device = self.topology.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.stored.dtype
        workload = Workload(*sizes, dtype)
        if workload != self.workload:
            self.workload, self.plan = workload, None
            kernel, reason = self.choose_kernel(self.topology)
            if kernel == self.kernel:
                self.reason = reason
            else:
                with torch.inference_mode(False):  # the index outlives this call, and training reads it
                    self._install(self.topology, kernel, reason)

    def set_kernel(self, kernel: str, reason: str) -> None:
        """Uses `kernel` until the pattern changes."""
        self.refined = TRAINED  # no input undoes it
        self._install(self.topology, kernel, reason)

    # ---- files

    def plan_state(self) -> dict[str, Any]:
        """Returns kernel and plan in plain values."""
        plan, workload = self.plan, self.workload
        return {
            "kernel": self.kernel,
            "reason": self.reason,
            "plan": plan and {"card": plan.card, "steps": [list(each) for each in plan.thresholds]},
            "use": workload and [workload.batch, workload.size, str(workload.dtype).removeprefix("torch.")],
            "refined": self.refined,
        }

    def load_plan(self, state: dict[str, Any]) -> None:
        """Takes over what `plan_state` returned, or kernel and reason alone, of version 0.1. What cannot run here, that
        of a GPU on a CPU say, is chosen anew.

        Raises:
            ValueError: the state is damaged.
        """
        here, kernel = card_of(self.topology.device), state["kernel"]
        if state.get("plan") is None:
            if here is None or kernel not in NONZEROS_ONLY:
                self.set_kernel(kernel, state["reason"])
            return
        plan, workload, refined = _read(state)
        kernels = {kernel, *(each.kernel for each in plan.thresholds)}
        if (plan.card is None) != (here is None) or not kernels <= {*KERNELS}:
            return
        self.plan, self.workload, self.refined = plan, workload, refined
        self._install(self.topology, kernel, state["reason"])


def _read(state: dict[str, Any]) -> tuple[KernelPlan, Workload | None, int]:
    try:
        saved = state["plan"]
        thresholds = [Threshold(float(above), str(kernel), str(why)) for above, kernel, why in saved["steps"]]
        use = state["use"]
        workload = use and Workload(use[0], use[1], getattr(torch, use[2]))
        return KernelPlan(saved["card"], (thresholds[0], *thresholds[1:])), workload, int(state["refined"])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"the plan of a layer's kernels is damaged: {error!r}") from error

"""A layer's plan: its kernels for all densities, made by a table once, refined by its first input, kept in checkpoints.

A pattern that changes, a resumed run, or another table of crossovers thus leaves a layer with the kernels that it began
with, and its results with the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..private_torch import FakeTensor, untraced
from ..topology import Topology
from .kernel_choice import KERNELS, NONZEROS_ONLY, Choice, KernelPlan, Threshold, card_of

if TYPE_CHECKING:
    from .layer import PatternLayer

UNSEEN, EVALUATED, TRAINED = 0, 1, 2  # by which inputs a plan was refined


class Workload(NamedTuple):
    """The inputs of a layer, as far as they are known: how many there are, the height of images, and the dtype that it
    computes in."""

    batch: int | None
    size: int | None
    dtype: torch.dtype


Use = Workload  # the name in older pickles


def choose_kernel(layer: PatternLayer, topology: Topology) -> Choice:
    """Chooses the kernel of a layer for a pattern: by its plan, if that is for this kind of device."""
    card = card_of(topology.device)
    if layer.plan is None or (layer.plan.card is None) != (card is None):
        layer.plan = layer.new_plan(layer.workload or Workload(None, None, layer.stored.dtype), card)
    return layer.plan.at(1 - topology.sparsity)


def refine(layer: PatternLayer, input: Tensor) -> None:
    """Makes the plan anew for inputs like this one: once in evaluation, and once in training, which counts from then
    on. Compiled code must not call it: it keeps the plan that it was compiled with, even in steps that run eagerly.

    Ranks of a data-parallel run whose first batches differ may choose different kernels. Their gradients are averaged,
    so that their weights stay the same; a resumed run has the plan of rank 0 on all of them.
    """
    stage = TRAINED if layer.training and torch.is_grad_enabled() else EVALUATED
    real = not isinstance(input, FakeTensor) and not input.is_meta and input.numel() > 0
    sizes = layer.workload_of(input) if real and layer.probe is None else None
    if sizes is None or stage <= layer.refined:
        return
    layer.refined = stage
    with untraced():
        _refine(layer, sizes)


def _refine(layer: PatternLayer, sizes: tuple[int, int | None]) -> None:
    device = layer.topology.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.stored.dtype
    workload = Workload(*sizes, dtype)
    if workload != layer.workload:
        layer.workload, layer.plan = workload, None
        kernel, reason = choose_kernel(layer, layer.topology)
        if kernel == layer.kernel:
            layer.reason = reason
        else:
            with torch.inference_mode(False):  # the index outlives this call, and training reads it
                layer._install(layer.topology, kernel, reason)


def state_of(layer: PatternLayer) -> dict[str, Any]:
    """Returns kernel and plan of a layer in plain values."""
    plan, workload = layer.plan, layer.workload
    return {
        "kernel": layer.kernel,
        "reason": layer.reason,
        "plan": plan and {"card": plan.card, "steps": [list(each) for each in plan.thresholds]},
        "use": workload and [workload.batch, workload.size, str(workload.dtype).removeprefix("torch.")],
        "refined": layer.refined,
    }


def load(layer: PatternLayer, state: dict[str, Any]) -> None:
    """Gives a layer what `state_of` returned, or kernel and reason alone, of version 0.1. What cannot run here, that of
    a GPU on a CPU say, is chosen anew.

    Raises:
        ValueError: the state is damaged.
    """
    here, kernel = card_of(layer.topology.device), state["kernel"]
    if state.get("plan") is None:
        if here is None or kernel not in NONZEROS_ONLY:
            layer.set_kernel(kernel, state["reason"])
        return
    plan, workload, refined = _read(state)
    kernels = {kernel, *(each.kernel for each in plan.thresholds)}
    if (plan.card is None) != (here is None) or not kernels <= {*KERNELS}:
        return
    layer.plan, layer.workload, layer.refined = plan, workload, refined
    layer._install(layer.topology, kernel, state["reason"])


def _read(state: dict[str, Any]) -> tuple[KernelPlan, Workload | None, int]:
    try:
        saved = state["plan"]
        thresholds = [Threshold(float(above), str(kernel), str(why)) for above, kernel, why in saved["steps"]]
        use = state["use"]
        workload = use and Workload(use[0], use[1], getattr(torch, use[2]))
        return KernelPlan(saved["card"], (thresholds[0], *thresholds[1:])), workload, int(state["refined"])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"the plan of a layer's kernels is damaged: {error!r}") from error

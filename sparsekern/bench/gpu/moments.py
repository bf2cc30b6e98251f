"""Gradients with their second moment over samples, beside gradients alone and BackPACK: `bench.moments` on a GPU."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..moments import OPS, PEERS, Conv2d, Linear, MomentProblem
from .case import Case


def moment_cases(layer: Linear | Conv2d, dtype: torch.dtype, device: torch.device) -> list[Case]:
    """The weight gradient of a layer, and its whole step, with the moment and without."""
    problem = MomentProblem(replace(layer, dtype=str(dtype).removeprefix("torch.")), device)
    if isinstance(layer, Conv2d):
        problem.x, problem.dy = (t.contiguous(memory_format=torch.channels_last) for t in (problem.x, problem.dy))
    return [_case(problem, op, dtype) for op in OPS]


def _case(problem: MomentProblem, op: str, dtype: torch.dtype) -> Case:
    layer = problem.layer
    case = Case(f"{op} {layer.shape}", dtype, layer.sparsity, layer.batch, {}, lambda: problem.expected(op))
    for peer in PEERS:
        if op not in peer.ops:
            continue
        if reason := peer.why_not(layer.dtype):
            case.missing[peer.name] = reason
            continue
        try:
            made = peer.build(problem, op)
        except RuntimeError as error:  # no memory, or NotImplementedError: it would take minutes on this layer
            case.missing[peer.name] = str(error)
            continue
        case.calls[peer.name], case.bytes[peer.name] = made.call, made.bytes
    if op == "gradient" and isinstance(layer, Linear) and not layer.positions:
        case.calls["two-products"] = _two_products(problem.dy, problem.x)
    return case


def _two_products(dy: Tensor, x: Tensor) -> Callable[[], Any]:
    """What BackPACK does for a linear layer without positions."""
    return lambda: (dy.t() @ x, dy.square().t() @ x.square())

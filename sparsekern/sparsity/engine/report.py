"""Reports what became of each layer's pattern."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from ...nn import Flops, Weights
from ..sites.site import LayerSite


def site_row(site: LayerSite) -> dict[str, Any]:
    topology = site.active
    return {
        "name": site.name,
        "shape": list(topology.shape),
        "nnz": topology.nnz,
        "sparsity": topology.sparsity,
        "flips": site.changes["flips"],
        "iou_last": site.changes["iou_last"],
        "iou_first": site.iou_first(),
        "kernel": site.module.kernel,
        "reason": site.module.reason,
        **site.measures(),
    }


def remarks(model: nn.Module, sites: Sequence[LayerSite], optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Returns notes: which weights are not sparse, and which layers no gradient has reached."""
    idle = [s.name for s in sites if s.learns and s.parameter.grad is None and not optimizer.state.get(s.parameter)]
    unused = f"no gradient has reached {', '.join(idle)}: are they used?"
    return (str(Weights(model)), *([unused] if 0 < len(idle) < len(sites) else []))


@dataclass(frozen=True)
class Report:
    """The state of every layer's pattern. `print` shows it as a table.

    Attributes:
        rows: one dict per layer. "flips": weights dropped plus weights grown at the last change. "iou_last",
            "iou_first": intersection over union of the pattern and the one before that change, and the first one.
            "sampled_uniformly", of guided growth: candidates that were drawn uniformly, since too few had a probability
            above 0. Others come from the method's rule.
        flops: those of the input that `Sparsifier.report` was given.
    """

    method: str
    steps: int
    notes: tuple[str, ...]
    rows: list[dict[str, Any]]
    flops: Flops | None = None

    @property
    def sparsity(self) -> float:
        """The fraction of absent weights over all sparse layers."""
        size = sum(prod(row["shape"]) for row in self.rows)
        return 1 - sum(row["nnz"] for row in self.rows) / size if size else 0.0

    def __str__(self) -> str:
        lines = [
            f"{self.method} after {self.steps} steps, sparsity {self.sparsity:.4f}",
            f"{'layer':20} {'shape':>14} {'nnz':>10} {'sparsity':>8} {'flips':>8} {'IoU last':>8} {'IoU first':>9}"
            "  kernel",
        ]
        for r in self.rows:
            shape = "x".join(map(str, r["shape"]))
            lines.append(
                f"{r['name'][-20:]:20} {shape:>14} {r['nnz']:>10} {r['sparsity']:>8.4f} {r['flips']:>8} "
                f"{r['iou_last']:>8.3f} {r['iou_first']:>9.3f}  {r['kernel']}: {r['reason']}"
            )
        return "\n".join([*lines, *([] if self.flops is None else [str(self.flops)]), *self.notes])

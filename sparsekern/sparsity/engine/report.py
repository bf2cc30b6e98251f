"""Reports what became of each layer's pattern."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import prod
from typing import Any

import torch
from torch import nn

from ... import text
from ...nn import Flops, PatternLayer, Weights
from ..sites.layer_site import LayerSite

NUMBERS = range(2, 7)  # the columns of a report that hold numbers


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


def parameters(model: nn.Module) -> int:
    """Returns how many entries the Parameters of the dense twin have, each counted once."""
    layers = {id(m.stored): prod(m.weight_shape) for m in model.modules() if isinstance(m, PatternLayer)}
    return sum(layers.get(id(parameter), parameter.numel()) for parameter in model.parameters())


@dataclass(frozen=True)
class Report:
    """The state of every layer's pattern. `print` shows it as a table, a notebook too.

    Attributes:
        rows: one dict per layer. "flips": weights dropped plus weights grown at the last change. "iou_last",
            "iou_first": intersection over union of the pattern and the one before that change, and the first one.
            "sampled_uniformly", of guided growth: candidates that were drawn uniformly, since too few had a probability
            above 0. Others come from the method's rule.
        flops: those of the input that `Sparsifier.report` was given.
        parameters: entries of all Parameters of the dense twin, those outside the sparse layers included.
    """

    method: str
    steps: int
    notes: tuple[str, ...]
    rows: list[dict[str, Any]]
    flops: Flops | None = None
    parameters: int = 0

    @property
    def sparsity(self) -> float:
        """The fraction of absent weights over all sparse layers."""
        size = sum(prod(row["shape"]) for row in self.rows)
        return self._absent / size if size else 0.0

    @property
    def model_sparsity(self) -> float:
        """The fraction of absent weights over all Parameters of the model, biases and dense layers included."""
        return self._absent / self.parameters if self.parameters else 0.0

    @property
    def _absent(self) -> int:
        return sum(prod(row["shape"]) - row["nnz"] for row in self.rows)

    def _table(self) -> list[list[str]]:
        cells = [["layer", "shape", "nnz", "sparsity", "flips", "IoU last", "IoU first", "kernel"]]
        for r in self.rows:
            overlap = (f"{r['iou_last']:.3f}", f"{r['iou_first']:.3f}")
            shape, kernel = " x ".join(map(str, r["shape"])), f"{r['kernel']}: {r['reason']}"
            cells.append(
                [r["name"], shape, f"{r['nnz']:,}", f"{r['sparsity']:.4f}", f"{r['flips']:,}", *overlap, kernel]
            )
        nnz = sum(row["nnz"] for row in self.rows)
        cells.append(["all sparse layers", "", f"{nnz:,}", f"{self.sparsity:.4f}", "", "", "", ""])
        if self.parameters:
            whole = self.parameters - self._absent
            cells.append(["the whole model", "", f"{whole:,}", f"{self.model_sparsity:.4f}", "", "", "", ""])
        return cells

    def _head(self) -> str:
        whole = f", {self.model_sparsity:.4f} of the whole model" if self.parameters else ""
        return f"{self.method} after {self.steps} steps, sparsity {self.sparsity:.4f} of {len(self.rows)} layers{whole}"

    def _remarks(self) -> list[str]:
        return [*([] if self.flops is None else [str(self.flops)]), *self.notes]

    def __str__(self) -> str:
        return "\n".join([self._head(), text.columns(self._table(), NUMBERS), *self._remarks()])

    def _repr_html_(self) -> str:
        """Returns the report as a notebook shows it."""
        remarks = "".join(f"<p>{escape(remark)}</p>" for remark in self._remarks())
        return f"<p>{escape(self._head())}</p>{text.html(self._table(), NUMBERS)}{remarks}"

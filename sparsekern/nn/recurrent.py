"""Recurrent layers whose weights have a pattern: PyTorch's own recurrence, with the expanded weights.

Values, their gradients and optimizer state have the size of the nonzeros. A call makes the dense weights, and its
backward pass their dense gradients; neither takes less time than the dense layer does.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..private_torch import transforming
from ..topology import Topology
from . import copies
from .expanded import ExpandedProduct
from .masked import MaskedLayer
from .plain import plain_weight
from .probe import Probe, unknown_product
from .sparse import SparseLayer

KINDS = (nn.RNN, nn.LSTM, nn.GRU)
SETTINGS = ("input_size", "hidden_size", "num_layers", "batch_first", "dropout", "bidirectional", "proj_size")


class SplitRecurrent(nn.Module):
    """An `nn.RNN`, `nn.LSTM` or `nn.GRU` whose weights are layers of their own, under the names that they have there.

    It is called as the whole one, and computes the same.
    """

    def __init__(self, whole: Any) -> None:
        super().__init__()
        for name in SETTINGS:
            setattr(self, name, getattr(whole, name))
        for name, parameter in whole.named_parameters():
            if parameter.dim() > 1:
                self.add_module(name, Matrix.of(parameter))
            else:
                self.register_parameter(name, parameter)
        # Not among the modules: it only lends its forward, and has no memory.
        self._bare = (copy.deepcopy(whole).to("meta"),)
        self.train(whole.training)

    @classmethod
    def of(cls, whole: nn.RNNBase) -> SplitRecurrent:
        return cls(whole)

    def train(self, mode: bool = True) -> SplitRecurrent:
        self._bare[0].train(mode)
        return super().train(mode)

    def forward(self, input: Any, hx: Any = None) -> Any:
        weights: dict[str, Any] = {name: layer() for name, layer in self.named_children()}
        weights |= dict(self.named_parameters(recurse=False))
        bare = copy.copy(self._bare[0])  # which keeps the weights that it was called with
        return torch.func.functional_call(bare, weights, (input, hx))

    @torch.no_grad()
    def whole(self) -> nn.Module | None:
        """Returns the layer with PyTorch's own weights; None if one of them is no dense matrix."""
        layers = dict(self.named_children())
        if any(type(layer) is not Matrix for layer in layers.values()):
            return None
        device = next(self.parameters()).device
        whole: Any = copy.deepcopy(self._bare[0]).to_empty(device=device)
        for name, parameter in [*self.named_parameters(recurse=False), *((n, m.weight) for n, m in layers.items())]:
            setattr(whole, name, parameter)
        whole.flatten_parameters()
        return whole.train(self.training)

    def flatten_parameters(self) -> None:
        """Does nothing: there is no weight that could be flattened."""

    def extra_repr(self) -> str:
        return f"{type(self._bare[0]).__name__}: {self._bare[0].extra_repr()}"

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments: Any) -> None:
        """Takes a state of the whole one, too, for weights that take a dense one."""
        for name, _ in self.named_children():
            if prefix + name in state_dict:
                state_dict[f"{prefix}{name}.weight"] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Matrix(nn.Module):
    """A weight `[rows, cols]`, which a call returns."""

    def __init__(self, rows: int, cols: int, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.rows, self.cols = rows, cols
        self.weight = nn.Parameter(torch.empty(rows, cols, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    @classmethod
    def of(cls, weight: nn.Parameter) -> Matrix:
        made = cls(*weight.shape, device="meta")
        made.weight = weight
        return made

    def forward(self) -> Tensor:
        return self.weight


class MatrixProduct(ExpandedProduct):
    """The constructor of a weight with a pattern, which its owner multiplies."""

    DENSE, SETTINGS = Matrix, ("rows", "cols")
    inside_recurrence = True

    def __init__(
        self,
        rows: int,
        cols: int,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        sparsity: float | None = None,
        topology: Topology | None = None,
        backend: str = "auto",
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        if bias:
            raise ValueError("a matrix has no bias")
        settings = {"rows": rows, "cols": cols}
        super().__init__(
            settings, (rows, cols), False, device, dtype, sparsity, topology, backend, generator, **options
        )

    @classmethod
    def new_dense(cls, settings: dict[str, Any], bias: bool, **factory: Any) -> nn.Module:
        return Matrix(**settings, **factory)

    def forward(self) -> Tensor:  # type: ignore[override]
        if self.outdated:
            copies.check(self)
        if isinstance(self, MaskedLayer) and self.weight_gradient == "moment":
            raise unknown_product()
        plain = transforming() or (torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export())
        weight = plain_weight(self) if plain and self.probe is None else self.dense_weight()
        return weight if self.probe is None else self.probe.watch(weight, None, self.stored)

    def new_probe(self) -> Probe:
        return Probe(self.weight_shape)

    def extra_repr(self) -> str:
        return f"{self.rows}, {self.cols}, {self.pattern_repr()}"


class SparseMatrix(MatrixProduct, SparseLayer):
    """A weight of which only the nonzeros exist; a call returns it, expanded."""


class MaskedMatrix(MatrixProduct, MaskedLayer):
    """A dense weight under a mask; a call returns it, zero off the pattern."""

    SPARSE = SparseMatrix

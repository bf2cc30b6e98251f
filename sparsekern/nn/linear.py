"""A linear layer that holds its nonzeros only."""

import torch
from torch import Tensor, nn

from .. import ops
from ..ops.backend import Choice, choose
from ..topology import Topology
from .layer import SparseLayer
from .probe import LinearProbe


class SparseLinear(SparseLayer):
    """`y = x W^T + b` with a sparse W of which only the nonzeros exist.

    The constructor is that of `nn.Linear` plus exactly one of `sparsity` (a random pattern, G(n, M)) and `topology`.
    New weights are uniform with variance 1 / fan-in, the fan-in being the number of nonzeros of the row (GraBo).

    Attributes:
        values: Parameter `[capacity]`, the used slots first, in row-major order; the only weight Parameter.
        bias: Parameter `[out_features]` or None.
        kernel, reason: the kernel in use ("csr", "tiled", "dense" or "masked") and why.

    Shapes: input `[..., in_features]`, output `[..., out_features]`. `state_dict` holds row-major `values` and `col`
    `[nnz]` with `row_ptr`, and loads into a layer of any capacity.
    """

    DENSE = nn.Linear
    SETTINGS = ("in_features", "out_features")

    in_features: int
    out_features: int

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        sparsity: float | None = None,
        topology: Topology | None = None,
        backend: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        settings = {"in_features": in_features, "out_features": out_features}
        shape = (out_features, in_features)
        super().__init__(settings, shape, bias, device, dtype, sparsity, topology, backend, generator)

    def choose_kernel(self, density: float) -> Choice:
        return choose(self.out_features, self.in_features, density, backend=self.backend)

    def new_probe(self) -> LinearProbe:
        return LinearProbe()

    def forward(self, input: Tensor) -> Tensor:
        if self.kernel == "masked":
            output = nn.functional.linear(input, self.topology.dense(self.values), self.bias)
        elif self.kernel == "dense":
            output = ops.expanded_linear(input, self.values, self.index, self.bias, self.out_features)
        else:
            output = ops.sparse_linear(input, self.values, self.index, self.bias, self.out_features)
        return output if self.probe is None else self.probe.tap(output, input)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"{self.pattern_repr()}"
        )

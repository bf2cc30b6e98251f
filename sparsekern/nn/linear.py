"""Linear layers: their product, and the one that holds its nonzeros only."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from ..ops.views import BITMASK, CSC, TILES, row_views
from ..topology import Topology
from .kernel_choice import KernelPlan, linear_plan
from .layer import PatternLayer
from .planned import Workload
from .probe import LinearProbe
from .sparse import SparseLayer


class LinearProduct(PatternLayer):
    """The constructor and the product of linear layers with a pattern."""

    DENSE = nn.Linear
    SETTINGS = ("in_features", "out_features")
    VIEWS: ClassVar[dict[str, frozenset[str]]] = {
        "csr": CSC,
        "tiled": TILES,
        "bits": BITMASK,
    }

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
        **options: Any,
    ) -> None:
        settings = {"in_features": in_features, "out_features": out_features}
        shape = (out_features, in_features)
        super().__init__(settings, shape, bias, device, dtype, sparsity, topology, backend, generator, **options)

    def new_plan(self, workload: Workload, card: str | None) -> KernelPlan:
        options = {"backend": self.backend, "card": card, "master": self.WEIGHT == "master"}
        return linear_plan(
            self.out_features, self.in_features, batch=workload.batch or 128, dtype=workload.dtype, **options
        )

    def _views(self, kernel: str, topology: Topology) -> frozenset[str]:
        if kernel == "csr" and topology.device.type == "cpu":
            held = vars(self).get("_topology")
            return row_views(topology.rows, topology.cols, topology.nnz, None if held is None else held.views)
        return super()._views(kernel, topology)

    def workload_of(self, input: Tensor) -> tuple[int, int | None] | None:
        fits = input.dim() > 0 and input.shape[-1] == self.in_features
        return (input.numel() // self.in_features, None) if fits else None

    def new_probe(self) -> LinearProbe:
        return LinearProbe(self.weight_shape)

    def dense_product(self, input: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.linear(input, weight, self.bias)

    def product(self, input: Tensor, values: Tensor) -> Tensor:
        if self.kernel == "masked":
            return self.dense_product(input, self.topology.dense(values))
        op = ops.expanded_linear if self.kernel == "dense" else ops.sparse_linear
        return op(input, values, self.index_on(values.device), self.bias, self.out_features)

    def masked_product(self, input: Tensor, weight: Tensor, active: bool) -> Tensor:
        return ops.masked_linear(input, weight, self.index_on(weight.device), self.bias, active=active)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"{self.pattern_repr()}"
        )


class SparseLinear(LinearProduct, SparseLayer):
    """`y = x W^T + b` with a sparse W of which only the nonzeros exist.

    The constructor is that of `nn.Linear` plus exactly one of `sparsity` (a random pattern, G(n, M)) and `topology`.
    New weights are uniform with variance 1 / fan-in, the fan-in being the number of nonzeros of the row (GraBo).

    Attributes:
        values: Parameter `[capacity]`, the used positions first, in row-major order; the only weight Parameter.
        bias: Parameter `[out_features]` or None.
        kernel, reason: the kernel in use ("csr", "tiled", "bits", "dense" or "masked") and why.

    Shapes: input `[..., in_features]`, output `[..., out_features]`. `state_dict` holds row-major `values` and `col`
    `[nnz]` with `row_ptr`, and loads into a layer of any capacity.

    Raises:
        ValueError: not exactly one of `sparsity` and `topology`, or one that does not fit; an unknown `backend`.

    Examples:
        >>> layer = sk.SparseLinear(512, 256, sparsity=0.9)
        >>> layer(torch.randn(32, 512)).shape, layer.values.shape  # a tenth of 131,072 weights
        (torch.Size([32, 256]), torch.Size([13108]))
    """

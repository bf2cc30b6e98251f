"""Convolutions: their product, and the one that holds its nonzeros only."""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..ops.conv_geometry import ConvGeometry, check_convolution
from ..ops.masked_conv2d import masked
from ..ops.sparse_conv2d import convolve, expanded, sparse
from ..ops.views import BITMASK
from ..topology import PACKED, Topology
from .kernel_choice import KernelPlan, conv_plan
from .layer import PatternLayer
from .planned import Workload
from .probe import ConvProbe
from .sparse import SparseLayer

# Densities: above the first, columns would make the weight larger than the dense one, and are decoded from bits, which
# stay down to the second, where they take twice as much.
PACKED_ABOVE, PACKED_UNTIL = 0.4, 1 / 64
Pair = int | Sequence[int]


class Conv2dProduct(PatternLayer):
    """The constructor and the product of 2-D convolutions with a pattern."""

    DENSE = nn.Conv2d
    SETTINGS = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    )
    VIEWS: ClassVar[dict[str, frozenset[str]]] = {"csr": frozenset({"csc_ptr"}), "bits": BITMASK}
    BATCHED = 4
    DIMS = 2  # of the input; with one, the first number of each pair is that of a height of 1

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    operation: ConvGeometry

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        sparsity: float | None = None,
        topology: Topology | None = None,
        backend: str = "auto",
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        check_convolution(in_channels, out_channels, groups, padding_mode)
        kernel, strides, sides, dilations, _ = geometry = ConvGeometry.of(
            kernel_size, stride, padding, dilation, groups
        )
        if not isinstance(padding, str):
            if not isinstance(padding, int) and len(padding) != 2:
                raise ValueError(f"padding must be a number, a pair of them, 'same' or 'valid', got {padding!r}")
            padding = (sides[0], sides[2])[-self.DIMS :]
        settings = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": tuple(kernel[-self.DIMS :]),
            "stride": tuple(strides[-self.DIMS :]),
            "padding": padding,
            "dilation": tuple(dilations[-self.DIMS :]),
            "groups": groups,
            "padding_mode": padding_mode,
        }
        shape = (out_channels, in_channels // groups, *settings["kernel_size"])
        super().__init__(settings, shape, bias, device, dtype, sparsity, topology, backend, generator, **options)
        # What the operator is told, made once; modes other than zeros are applied before it.
        self._border = None if padding_mode == "zeros" else [*sides[2:], *sides[:2]]
        self.operation = geometry if padding_mode == "zeros" else geometry._replace(padding=[0, 0, 0, 0])

    @property
    def window(self) -> ConvGeometry:
        """The old name of `operation`, until version 0.3."""
        warnings.warn("window is called operation now; the old name goes with version 0.3", DeprecationWarning, 2)
        return self.operation

    def new_plan(self, workload: Workload, card: str | None) -> KernelPlan:
        out, channels, *_ = self.weight_shape
        options = {"groups": self.groups, "backend": self.backend, "card": card, "master": self.WEIGHT == "master"}
        return conv_plan(out, channels, self.kernel_size, self.stride, **workload._asdict(), **options)

    def _views(self, kernel: str, topology: Topology) -> frozenset[str]:
        views, density = super()._views(kernel, topology), 1 - topology.sparsity
        if kernel != "csr" or topology.device.type != "cpu":
            return views
        held = vars(self).get("_topology")
        packed = density > PACKED_ABOVE
        if held is not None and self.kernel == kernel:  # keeps the form of its columns, for which code was compiled
            packed = density > PACKED_UNTIL and held.views == PACKED
        return PACKED if packed else views

    def workload_of(self, input: Tensor) -> tuple[int, int | None] | None:
        fits = input.dim() in (3, 4) and input.shape[-3] == self.in_channels
        return (len(input) if input.dim() == 4 else 1, input.shape[-2]) if fits else None

    def new_probe(self) -> ConvProbe:
        return ConvProbe(self.weight_shape, self.operation)

    def prepare(self, input: Tensor) -> Tensor:
        return input if self._border is None else nn.functional.pad(input, self._border, mode=self.padding_mode)

    def product(self, input: Tensor, values: Tensor) -> Tensor:
        if self.kernel == "masked":
            return self.dense_product(input, self.topology.dense(values))
        op = expanded if self.kernel == "dense" else sparse
        values = values.unsqueeze(-2) if values.dim() == 3 else values  # dense, of a height of 1
        return convolve(op, input, values, self.index_on(values.device), self.bias, self.operation)

    def masked_product(self, input: Tensor, weight: Tensor, active: bool) -> Tensor:
        weight = weight.reshape(*weight.shape[:2], *self.operation.kernel_size)
        return convolve(masked, input, weight, self.index_on(weight.device), self.bias, self.operation, active)

    def dense_product(self, input: Tensor, weight: Tensor) -> Tensor:
        padding = self.padding if self._border is None else 0
        return nn.functional.conv2d(input, weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        usual: dict[str, Any] = {"padding": (0,) * self.DIMS, "dilation": (1,) * self.DIMS}
        usual |= {"groups": 1, "padding_mode": "zeros"}
        parts += [f"{name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value]
        return ", ".join([*parts, *(["bias=False"] if self.bias is None else []), self.pattern_repr()])


class SparseConv2d(Conv2dProduct, SparseLayer):
    """2-D convolution with a sparse weight of which only the nonzeros exist.

    The constructor is that of `nn.Conv2d` plus exactly one of `sparsity` (a random pattern, G(n, M)) and `topology`
    (of the weight's shape `[out, in / groups, kernel height, kernel width]`). New weights are uniform with variance
    1 / fan-in, the fan-in being the number of nonzeros of the output channel (GraBo).

    Attributes:
        values: Parameter `[capacity]`, the used positions first, in row-major order; the only weight Parameter.
        bias: Parameter `[out_channels]` or None.
        kernel, reason: the kernel in use ("csr", "bits", "dense" or "masked") and why.

    Shapes: input `[batch, in_channels, height, width]` or without the batch, output alike and in the same memory
    format. `state_dict` holds row-major `values` and `col` `[nnz]` with `row_ptr`, and loads into a layer of any
    capacity.

    Raises:
        ValueError: not exactly one of `sparsity` and `topology`, or one that does not fit; an unknown `backend`; a
            geometry that `nn.Conv2d` does not take.

    Examples:
        >>> layer = sk.SparseConv2d(64, 128, 3, padding=1, sparsity=0.9)
        >>> layer(torch.randn(8, 64, 16, 16)).shape
        torch.Size([8, 128, 16, 16])
    """

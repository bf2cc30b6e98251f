"""Layers without kernels of their own: PyTorch multiplies the expanded weight.

Values, gradients of values and optimizer state have the size of the nonzeros. A call makes the dense weight, and a
backward pass its dense gradient, for as long as it runs: neither takes less time than the dense layer does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.conv_geometry import check_convolution, same_padding
from ..ops.operands import autocast
from ..ops.shapes import accumulate_dtype
from ..ops.straight_through import weight_gradient
from ..ops.torch_products import Convolution, absolute_sums
from ..topology import Topology
from .kernel_choice import KernelPlan, Threshold, check_backend
from .layer import PatternLayer
from .masked import MaskedLayer
from .planned import Workload
from .probe import ConvProbe, Probe
from .sparse import SparseLayer

Size = int | tuple[int, ...]


class ExpandedProduct(PatternLayer):
    """A product with the expanded weight."""

    expands = True

    VIEWS: ClassVar[dict[str, frozenset[str]]] = {}

    def new_plan(self, workload: Workload, card: str | None) -> KernelPlan:
        check_backend(self.backend)
        why = f"no kernel multiplies the nonzeros of a {self.DENSE.__name__}: PyTorch's product with the whole weight"
        return KernelPlan(card, (Threshold(0.0, "masked" if self.backend == "masked" else "dense", why),))

    def workload_of(self, input: Tensor) -> None:
        return None  # the kernel is the same for all

    def product(self, input: Tensor, values: Tensor) -> Tensor:
        return self.dense_product(input, self.topology.dense(values))


class ConvNdProduct(ExpandedProduct):
    """The constructor and the product of 3-D and of transposed convolutions with a pattern."""

    DIMS: ClassVar[int]

    in_channels: int
    out_channels: int
    groups: int
    padding_mode: str
    operation: Convolution

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        output_padding: Size = 0,
        sparsity: float | None = None,
        topology: Topology | None = None,
        backend: str = "auto",
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        check_convolution(in_channels, out_channels, groups, padding_mode)
        kernel, strides, dilations, more = (
            self._sizes(size) for size in (kernel_size, stride, dilation, output_padding)
        )
        settings = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": kernel,
            "stride": strides,
            "padding": padding if isinstance(padding, str) else self._sizes(padding),
            "dilation": dilations,
            "groups": groups,
            "padding_mode": padding_mode,
        }
        if self.TRANSPOSED:
            settings["output_padding"] = more
        shape = (out_channels, in_channels // groups, *kernel)
        super().__init__(settings, shape, bias, device, dtype, sparsity, topology, backend, generator, **options)
        if padding == "same":
            sides = same_padding(kernel, dilations)
        else:
            sides = [(n, n) for n in ((0,) * self.DIMS if isinstance(padding, str) else self._sizes(padding))]
        inside = [start if padding_mode == "zeros" else 0 for start, _ in sides]  # PyTorch's convolution pads it itself
        before = [(start - n, end - n) for (start, end), n in zip(sides, inside, strict=True)]
        self._border = [n for pair in reversed(before) for n in pair] if any(map(any, before)) else None
        self.operation = Convolution(list(strides), inside, list(dilations), self.TRANSPOSED, list(more), groups)

    def _sizes(self, value: Size) -> tuple[int, ...]:
        sizes = (value,) * self.DIMS if isinstance(value, int) else tuple(value)
        if len(sizes) != self.DIMS:
            raise ValueError(f"expected a number or {self.DIMS} of them, got {value!r}")
        return sizes

    def prepare(self, input: Tensor) -> Tensor:
        if self._border is None:
            return input
        return F.pad(input, self._border, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)

    def dense_product(self, input: Tensor, weight: Tensor) -> Tensor:
        batched = input.dim() > self.DIMS + 1
        input, weight, bias = autocast(input, self.weight_of(weight), self.bias)  # which does not know this operator
        output = torch.convolution(input if batched else input.unsqueeze(0), weight, bias, *self.operation)
        return output if batched else output[0]

    def new_probe(self) -> ConvNdProbe:
        return ConvNdProbe(self.weight_shape, self.operation)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}"]
        parts += [f"{name}={getattr(self, name)!r}" for name in self.SETTINGS[2:]]
        return ", ".join([*parts, f"bias={self.bias is not None}", self.pattern_repr()])


class ConvNdProbe(ConvProbe):
    """h and delta `[batch, channels, *size]`, or without the batch. Gradients at some entries are taken from the whole
    gradient."""

    operation: Convolution

    def _features(self, tensor: Tensor) -> Tensor:
        return absolute_sums(tensor if tensor.dim() > self.operation.dims + 1 else tensor.unsqueeze(0))

    def _sampled(self, h: Tensor, delta: Tensor, coordinates: Tensor) -> Tensor:
        return Probe._sampled(self, h, delta, coordinates)

    def _signed(self, h: Tensor, delta: Tensor, signs: Any) -> tuple[Tensor, Tensor]:
        dims, groups = self.operation.dims, self.operation.groups
        h, delta = (x if x.dim() > dims + 1 else x.unsqueeze(0) for x in (h, delta))
        h, delta = (x.to(accumulate_dtype(x.dtype)) for x in (h, delta))
        batch, _, *size = delta.shape
        xi = signs(delta[:, :1].numel()).to(h).reshape(batch, 1, *size)
        cols = weight_gradient(xi.expand(batch, groups, *size), h, (groups, *self.weight_shape[1:]), self.operation)
        rows = (delta * xi).transpose(0, 1).flatten(1).sum(1)
        return rows, cols.reshape(groups, -1) if groups > 1 else cols.flatten()


class Conv3dProduct(ConvNdProduct):
    DENSE, DIMS, BATCHED = nn.Conv3d, 3, 5
    SETTINGS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


class TransposedProduct(ConvNdProduct):
    """Patterns and rows are `[out, in, *kernel]`; `layer.weight` is `[in, out, *kernel]`, as that of the dense twin."""

    TRANSPOSED = True
    SETTINGS = (*Conv3dProduct.SETTINGS, "output_padding")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        **options: Any,
    ) -> None:
        if groups != 1 or padding_mode != "zeros":
            raise ValueError(f"expected one group and zero padding, got groups={groups}, padding_mode={padding_mode!r}")
        options["output_padding"] = output_padding
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, 1, bias, **options)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Computes the output, `[batch, out_channels, *size]`, of `output_size` if that is given, as the dense twin."""
        if output_size is None:
            return super().forward(input)
        usual, more = self.operation, self._output_padding(input, output_size)
        self.operation = usual._replace(output_padding=more)
        try:
            return super().forward(input)
        finally:
            self.operation = usual

    def _output_padding(self, input: Tensor, output_size: Sequence[int]) -> list[int]:
        """Returns what the least output lacks to the one that is wanted, which may have the batch and the channels."""
        if len(output_size) == input.dim():
            output_size = output_size[input.dim() - self.DIMS :]
        size = list(input.shape[input.dim() - self.DIMS :])
        least = self.operation.least_output(size, self.weight_shape[2:])
        most = [low + step - 1 for low, step in zip(least, self.operation.stride, strict=True)]
        wanted = list(output_size)
        if len(wanted) != self.DIMS or not all(a <= n <= b for a, n, b in zip(least, wanted, most, strict=True)):
            raise ValueError(f"output_size must be between {least} and {most} for an input of {size}, got {wanted}")
        return [n - low for n, low in zip(wanted, least, strict=True)]

    @staticmethod
    def refuses(layer: Any) -> str | None:
        return "no sparse layer of transposed convolutions in groups" if layer.groups > 1 else None

    def multiplications_per_weight(self, input: Tensor, output: Tensor) -> int:
        return input.numel() // max(1, self.in_channels)


class ConvTranspose1dProduct(TransposedProduct):
    DENSE, DIMS, BATCHED = nn.ConvTranspose1d, 1, 3


class ConvTranspose2dProduct(TransposedProduct):
    DENSE, DIMS, BATCHED = nn.ConvTranspose2d, 2, 4


class ConvTranspose3dProduct(TransposedProduct):
    DENSE, DIMS, BATCHED = nn.ConvTranspose3d, 3, 5


class SparseConv3d(Conv3dProduct, SparseLayer):
    """3-D convolution that holds its nonzeros only; a call expands the whole weight.

    The constructor is that of `nn.Conv3d` plus exactly one of `sparsity` and `topology`, of the weight's shape;
    attributes, files and errors are those of a `SparseConv2d`.

    Shapes: input `[batch, in_channels, depth, height, width]` or without the batch, output alike.
    """


class MaskedConv3d(Conv3dProduct, MaskedLayer):
    """3-D convolution with a dense master weight and a mask; a call makes the masked weight.

    The constructor is that of `nn.Conv3d` plus exactly one of `sparsity` and `topology`; attributes, files and errors
    are those of a `MaskedConv2d`. Shapes are those of a `SparseConv3d`.
    """

    SPARSE = SparseConv3d


class SparseConvTranspose1d(ConvTranspose1dProduct, SparseLayer):
    """Transposed 1-D convolution that holds its nonzeros only."""


class MaskedConvTranspose1d(ConvTranspose1dProduct, MaskedLayer):
    """Transposed 1-D convolution with a dense master weight and a mask."""

    SPARSE = SparseConvTranspose1d


class SparseConvTranspose2d(ConvTranspose2dProduct, SparseLayer):
    """Transposed 2-D convolution that holds its nonzeros only."""


class MaskedConvTranspose2d(ConvTranspose2dProduct, MaskedLayer):
    """Transposed 2-D convolution with a dense master weight and a mask."""

    SPARSE = SparseConvTranspose2d


class SparseConvTranspose3d(ConvTranspose3dProduct, SparseLayer):
    """Transposed 3-D convolution that holds its nonzeros only."""


class MaskedConvTranspose3d(ConvTranspose3dProduct, MaskedLayer):
    """Transposed 3-D convolution with a dense master weight and a mask."""

    SPARSE = SparseConvTranspose3d


EXPANDED: list[tuple[type[SparseLayer], type[MaskedLayer]]] = [
    (SparseConv3d, MaskedConv3d),
    (SparseConvTranspose1d, MaskedConvTranspose1d),
    (SparseConvTranspose2d, MaskedConvTranspose2d),
    (SparseConvTranspose3d, MaskedConvTranspose3d),
]

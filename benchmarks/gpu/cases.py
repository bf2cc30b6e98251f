"""What is measured: a problem, the calls that solve it, and how a solution is checked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsekern import Topology, ops
from sparsekern.topology import kept

_ops = torch.ops.sparsekern
BITS = frozenset({"bits"})
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
# in, out, batch; in, out, kernel, stride, image, batch
LINEAR = [(4096, 4096, batch) for batch in (1, 16, 64, 256, 1024, 8192)] + [
    (1024, 1024, batch) for batch in (128, 8192)
]
# in, out, samples, positions
MOMENTS = [(4096, 4096, samples, 1) for samples in (16, 64, 256, 1024, 8192)] + [
    *((4096, 4096, samples, 64) for samples in (4, 16, 128)),
    *((1024, 1024, samples, 1) for samples in (128, 8192)),
    (1024, 1024, 128, 64),
]
CONVOLUTIONS = [(64, 64, 3, 1, 32, 128), (256, 256, 3, 1, 8, 128), (512, 512, 1, 1, 14, 128)]
SPARSITIES = (0.8, 0.9, 0.95, 0.98)
DTYPES = (torch.bfloat16, torch.float32)


@dataclass
class Case:
    """Calls that compute the same; the first is the dense one, to which the others are compared.

    Attributes:
        calls: by implementation; each returns the first of the expected tensors, or several.
        expected: the results, in float64.
        at: where it counts, if not everywhere: at the coordinates of the nonzeros, which some calls return alone.
        bytes: what each implementation holds of the weight: values and index.
    """

    name: str
    dtype: torch.dtype
    sparsity: float
    batch: int
    calls: dict[str, Callable[[], Any]]
    expected: Callable[[], Sequence[Tensor]]
    bytes: dict[str, int] = field(default_factory=dict)
    at: Tensor | None = None

    def error(self, found: Tensor | Sequence[Tensor]) -> float:
        """The largest |found - expected| / |expected|, infinite for another shape or NaN."""
        results = [found] if isinstance(found, Tensor) else found
        return max(self._error(result, wanted) for result, wanted in zip(results, self._wanted, strict=False))

    @cached_property
    def _wanted(self) -> Sequence[Tensor]:
        return self.expected()

    def _error(self, result: Tensor, wanted: Tensor) -> float:
        if self.at is not None:
            wanted = wanted.flatten()[self.at]
            result = result.flatten()[self.at] if result.dim() > 1 else result
        if result.shape != wanted.shape:
            return float("inf")
        error = float((result.double() - wanted).norm() / wanted.norm().clamp(min=1e-30))
        return error if error == error else float("inf")

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.dtype]


def cases(device: torch.device, quick: bool = False) -> Iterator[Callable[[], list[Case]]]:
    """Makers of cases, so that one problem lives at a time."""
    linear = [(96, 160, 8)] if quick else LINEAR
    convolutions = [(8, 8, 3, 1, 6, 2)] if quick else CONVOLUTIONS
    for dtype in DTYPES:
        for sparsity in SPARSITIES:
            for shape in linear:
                yield partial(linear_cases, shape, sparsity, dtype, device)
            for shape in convolutions:
                yield partial(convolution_cases, shape, sparsity, dtype, device)
        for problem in [(96, 160, 8, 1), (96, 160, 3, 64)] if quick else MOMENTS:
            yield partial(moment_cases, problem, dtype, device)
    yield partial(threshold_cases, 10_000 if quick else 100_000_000, device)


def _weight(
    shape: tuple[int, ...], sparsity: float, dtype: torch.dtype, device: torch.device
) -> tuple[Topology, Tensor, Tensor]:
    """Pattern, values, and a dense weight that has other entries, too."""
    generator = torch.Generator().manual_seed(0)
    topology = Topology.random(shape, kept(sparsity, prod(shape)), generator=generator, views=BITS).to(device)
    master = torch.randn(shape, device=device).div_((topology.nnz / shape[0]) ** 0.5).to(dtype)
    return topology, topology.gather(master), master


def _held(topology: Topology, values: Tensor, dense: Tensor) -> dict[str, int]:
    sparse = values.nbytes + sum(t.nbytes for t in topology.index)
    row_ptr, col = topology.row_ptr.numel(), topology.nnz
    return {
        "dense": dense.nbytes,
        "masked": dense.nbytes + topology.mask().nbytes,
        "torch-csr": values.nbytes + 4 * (row_ptr + col),
        "sparsekern-expanded": sparse,
        "sparsekern-bits": sparse,
        "sparsekern-fused": dense.nbytes + topology.index[5].nbytes + topology.index[7].nbytes,
    }


def linear_cases(shape: tuple[int, int, int], sparsity: float, dtype: torch.dtype, device: torch.device) -> list[Case]:
    cols, rows, batch = shape
    topology, values, master = _weight((rows, cols), sparsity, dtype, device)
    dense, mask = topology.dense(values), topology.mask()
    x, dy = torch.randn(batch, cols, device=device).to(dtype), torch.randn(batch, rows, device=device).to(dtype)
    index, at = topology.index, topology.coordinates()
    csr = torch.sparse_csr_tensor(topology.row_ptr, topology.col[: topology.nnz], values[: topology.nnz], (rows, cols))
    make = partial(Case, dtype=dtype, sparsity=sparsity, batch=batch, bytes=_held(topology, values, dense))

    def backward(op: str, i: int) -> Callable[[], Tensor]:
        needs = [k == i for k in range(3)]
        return lambda: getattr(_ops, f"{op}_backward")(dy, x, values, index, *needs)[i]

    def forward(op: str) -> Callable[[], Tensor]:
        return lambda: getattr(_ops, op)(x, values, index, None, rows)

    forwards = {
        "dense": lambda: functional.linear(x, dense),
        "masked": lambda: functional.linear(x, master * mask),
        "sparsekern-expanded": forward("expanded_linear"),
        "sparsekern-bits": forward("sparse_linear"),
        "sparsekern-fused": lambda: _ops.masked_linear(x, master, index, None, False),
        "torch-csr": lambda: (csr @ x.t()).t(),
    }
    inputs = {
        "dense": lambda: dy @ dense,
        "masked": lambda: dy @ (master * mask),
        "sparsekern-expanded": backward("expanded_linear", 0),
        "sparsekern-bits": backward("sparse_linear", 0),
        "sparsekern-fused": lambda: _ops.masked_linear_backward(dy, x, master, index, True, False, False, False)[0],
    }
    weights = {
        "dense": lambda: dy.t() @ x,
        "masked": lambda: (dy.t() @ x) * mask,
        "sparsekern-expanded": backward("expanded_linear", 1),
        "sparsekern-bits": backward("sparse_linear", 1),
        "sparsekern-fused": lambda: _ops.masked_linear_backward(dy, x, master, index, False, True, False, True)[1],
    }
    name = f"{cols}x{rows}"
    return [
        make(f"forward {name}", calls=forwards, expected=lambda: [x.double() @ dense.double().t()]),
        make(f"input_gradient {name}", calls=inputs, expected=lambda: [dy.double() @ dense.double()]),
        make(
            f"weight_gradient {name}",
            calls=weights,
            expected=lambda: [dy.double().t() @ x.double()],
            at=at,
        ),
    ]


def convolution_cases(shape: tuple[int, ...], sparsity: float, dtype: torch.dtype, device: torch.device) -> list[Case]:
    channels, out, size, stride, image, batch = shape
    topology, values, master = _weight((out, channels, size, size), sparsity, dtype, device)
    dense, mask = topology.dense(values), topology.mask()
    last = torch.channels_last
    x = torch.randn(batch, channels, image, image, device=device).to(dtype).contiguous(memory_format=last)
    window: tuple = ([size] * 2, [stride] * 2, [size // 2] * 4, [1, 1], 1)
    y = functional.conv2d(x, dense, None, stride, size // 2)
    dy = torch.randn(y.shape, device=device).to(dtype).contiguous(memory_format=last)
    index, at = topology.index, topology.coordinates()
    make = partial(Case, dtype=dtype, sparsity=sparsity, batch=batch, bytes=_held(topology, values, dense))
    wide = [t.double() for t in (x, dense, dy)]

    def gradient(op: str, i: int) -> Callable[[], Tensor]:
        needs = [k == i for k in range(3)]
        if op == "masked_conv2d":
            return lambda: _ops.masked_conv2d_backward(dy, x, master, index, *needs, *window, True)[i]
        return lambda: getattr(_ops, f"{op}_backward")(dy, x, values, index, *needs, *window)[i]

    def conv(weight: Tensor) -> Tensor:
        return functional.conv2d(x, weight, None, stride, size // 2)

    def dense_gradient(weight: Tensor, i: int) -> Tensor:
        return _gradients(dy, x, weight, stride, size // 2, i)

    forwards = {
        "dense": lambda: conv(dense),
        "masked": lambda: conv(master * mask),
        "sparsekern-expanded": lambda: _ops.expanded_conv2d(x, values, index, None, *window),
        "sparsekern-bits": lambda: _ops.sparse_conv2d(x, values, index, None, *window),
        "sparsekern-fused": lambda: _ops.masked_conv2d(x, master, index, None, *window, False),
    }
    inputs = {
        "dense": lambda: dense_gradient(dense, 0),
        "masked": lambda: dense_gradient(master * mask, 0),
        "sparsekern-expanded": gradient("expanded_conv2d", 0),
        "sparsekern-bits": gradient("sparse_conv2d", 0),
        "sparsekern-fused": gradient("masked_conv2d", 0),
    }
    weights = {
        "dense": lambda: dense_gradient(dense, 1),
        "masked": lambda: dense_gradient(dense, 1) * mask,
        "sparsekern-expanded": gradient("expanded_conv2d", 1),
        "sparsekern-bits": gradient("sparse_conv2d", 1),
        "sparsekern-fused": gradient("masked_conv2d", 1),
    }
    name = f"conv{size}x{size}/{channels}-{out}/{image}"
    return [
        make(
            f"forward {name}",
            calls=forwards,
            expected=lambda: [functional.conv2d(wide[0], wide[1], None, stride, size // 2)],
        ),
        make(
            f"input_gradient {name}",
            calls=inputs,
            expected=lambda: [_gradients(wide[2], wide[0], wide[1], stride, size // 2, 0)],
        ),
        make(
            f"weight_gradient {name}",
            calls=weights,
            expected=lambda: [_gradients(wide[2], wide[0], wide[1], stride, size // 2, 1)],
            at=at,
        ),
    ]


def _gradients(dy: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, i: int) -> Tensor:
    needs = [k == i for k in range(3)]
    geometry = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
    return torch.ops.aten.convolution_backward(dy, x, weight, None, *geometry, needs)[i]


def moment_cases(problem: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> list[Case]:
    """The gradient with its second moment beside the gradient alone, of samples with one position or more."""
    cols, rows, samples, positions = problem
    x = torch.randn(samples, positions, cols, device=device).to(dtype)
    dy = torch.randn(samples, positions, rows, device=device).to(dtype)
    calls: dict[str, Callable[[], Any]] = {
        "dense": lambda: dy.flatten(0, 1).t() @ x.flatten(0, 1),
        "sparsekern": lambda: _ops.gradient_moment(dy, x),
    }
    if positions == 1:
        calls["two-products"] = lambda: _two_products(dy[:, 0], x[:, 0])
    name = f"gradient_moment {cols}x{rows}/{positions}"
    return [Case(name, dtype, 0.0, samples, calls, partial(_moments, dy, x))]


def _two_products(dy: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """What BackPACK does for a linear layer."""
    return dy.t() @ x, dy.square().t() @ x.square()


def _moments(dy: Tensor, x: Tensor) -> list[Tensor]:
    """Gradient and second moment, a sample at a time."""
    sums = [torch.zeros(dy.shape[-1], x.shape[-1], dtype=torch.float64, device=x.device) for _ in range(2)]
    for delta, h in zip(dy, x, strict=True):
        share = delta.double().t() @ h.double()
        sums[0] += share
        sums[1] += share.square()
    return sums


def threshold_cases(size: int, device: torch.device) -> list[Case]:
    """The mask of the largest tenth of the magnitudes of some tensors."""
    scores = [torch.randn(n, device=device) for n in (size // 2, size // 3, size - size // 2 - size // 3)]
    k = size // 10

    def by(threshold: Callable[[Tensor], Tensor]) -> Tensor:
        magnitudes = torch.cat(scores).abs_()
        return magnitudes >= threshold(magnitudes)

    calls = {
        "torch.topk": lambda: by(lambda m: m.topk(k, sorted=False).values.min()),
        "torch.kthvalue": lambda: by(lambda m: m.kthvalue(size - k + 1).values),
        "torch.sort": lambda: by(lambda m: m.sort(descending=True).values[k - 1]),
        "sparsekern": lambda: torch.cat(ops.topk_mask(scores, k, absolute=True)),
    }

    def expected() -> list[Tensor]:
        return [by(lambda m: m.sort(descending=True).values[k - 1]).double()]

    return [Case(f"topk_mask {size:,}", torch.float32, 0.9, 1, calls, expected)]

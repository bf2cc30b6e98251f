"""Convolutions that the sparse kernel has to get right: every kind of geometry, image, batch, pattern and layout."""

import functools
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from support.patterns import Pattern, mask
from torch import Tensor
from torch.nn import functional

Pair = int | tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A convolution as `conv2d` takes it; padding may be four-sided (top, bottom, left, right)."""

    kernel: Pair = 3
    padding: Pair | str = 0
    stride: Pair = 1
    dilation: Pair = 1
    groups: int = 1
    channels: int = 4
    out: int = 6
    size: tuple[int, int] = (9, 10)
    batch: int = 3
    density: float = 0.3
    slack: int = 0
    bias: bool = True
    layout: str = "contiguous"
    delta_layout: str = "contiguous"

    @property
    def window(self) -> dict:
        names = ("stride", "padding", "dilation", "groups")
        return {"kernel_size": self.kernel, **{name: getattr(self, name) for name in names}}

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel

    @property
    def pattern(self) -> Pattern:
        cols = self.channels // self.groups * self.kernel_size[0] * self.kernel_size[1]
        return Pattern(mask(self.out, cols, self.density, seed=3), self.slack)

    def convolve(self, input: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """By PyTorch, with the rows of a dense matrix as kernels."""
        padding = self.padding
        if isinstance(padding, tuple) and len(padding) == 4:
            top, bottom, left, right = padding
            input, padding = functional.pad(input, (left, right, top, bottom)), 0
        weight = matrix.reshape(self.out, self.channels // self.groups, *self.kernel_size)
        return functional.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)  # type: ignore


# Images of 9 x 10 by default, so that strides leave remainders.
GEOMETRIES: dict[str, Case] = {
    "1x1": Case(1),
    "1x1 padded": Case(1, 1),
    "1x1 stride 2": Case(1, stride=2),
    "1x1 stride 2 padded": Case(1, 1, 2),
    "1x1 stride 3": Case(1, stride=(3, 3)),
    "3x3": Case(3, 1),
    "3x3 no padding": Case(3),
    "3x3 valid": Case(3, "valid", 2),
    "3x3 same": Case(3, "same"),
    "3x3 no bias": Case(3, 1, bias=False),
    "3x3 stride 2": Case(3, 1, 2),
    "3x3 stride 3": Case(3, 1, 3),
    "3x3 stride (2, 1)": Case(3, 1, (2, 1)),
    "3x3 stride (1, 3)": Case(3, (0, 1), (1, 3)),
    "3x3 stride above kernel": Case(3, 2, (4, 5)),
    "3x1": Case((3, 1), (1, 0)),
    "3x1 padded across": Case((3, 1), (0, 1)),
    "1x5": Case((1, 5), (0, 2)),
    "1x5 stride (1, 2)": Case((1, 5), 2, (1, 2)),
    "5x5": Case(5, 2),
    "5x5 stride 2": Case(5, (2, 1), 2),
    "7x7 same": Case(7, "same"),
    "7x7 stride 2": Case(7, 3, 2, channels=3, out=8),
    "2x2 same": Case(2, "same"),
    "2x2 stride 2": Case(2, stride=2),
    "2x2 stride 3": Case(2, 1, 3),
    "4x3": Case((4, 3), (1, 2)),
    "4x3 same": Case((4, 3), "same"),
    "2x4 same dilated": Case((2, 4), "same", dilation=(3, 1)),
    "four sides": Case(3, (0, 1, 2, 3)),
    "four sides stride 2": Case(3, (0, 1, 0, 1), 2),
    "one side": Case(3, (2, 0, 0, 0)),
    "wide padding": Case(3, 4),
    "wide padding stride 2": Case((2, 3), (5, 3), 2, size=(2, 2)),
    "padding 3 of 1x1": Case(1, 3, 2, size=(3, 2)),
    "dilation 2": Case(3, 2, dilation=2),
    "dilation (1, 3)": Case(3, (1, 3), dilation=(1, 3)),
    "dilation 2 stride 2": Case(3, 1, 2, 2),
    "dilation (2, 1) stride (1, 2)": Case((2, 3), 1, (1, 2), (2, 1)),
    "groups 2": Case(3, 1, groups=2),
    "groups 2 stride 2": Case(3, 1, 2, groups=2),
    "groups 2 1x1": Case(1, groups=2, channels=6, out=8),
    "groups 4 dilated": Case(3, 2, dilation=2, groups=4, channels=8, out=12),
    "groups of one output": Case(3, 1, groups=3, channels=6, out=3),
    "depthwise": Case(3, 1, groups=6, channels=6, density=0.6),
    "depthwise stride 2": Case(3, 1, 2, groups=17, channels=17, out=17, density=0.6),
    "depthwise multiplier 2": Case(3, 1, groups=5, channels=5, out=10, density=0.6),
    "depthwise 5x5 dilated": Case(5, 4, dilation=2, groups=3, channels=3, out=3),
    "one input channel": Case(3, 1, channels=1),
    "one output channel": Case(3, 1, channels=17, out=1),
    "17 to 17": Case(3, 1, channels=17, out=17),
    "16 to 33": Case(3, 1, 2, channels=16, out=33),
    "1 to 1": Case(3, 1, channels=1, out=1, density=0.6),
    "kernel of the image's size": Case((3, 5), size=(3, 5)),
    "kernel of the padded image's size": Case(3, 1, size=(1, 1)),
    "only padding under some outputs": Case(1, (0, 2), 2, size=(1, 1), density=2.0),
    "taller than wide": Case(3, 1, size=(40, 2)),
    "wider than tall": Case(3, 1, size=(2, 70)),
}

BASES = {"3x3": Case(3, 1), "stride 2": Case(3, 1, 2), "1x1": Case(1, density=0.6)}
LAYERS: dict[str, Case] = {
    "64 to 64, batch 64": Case(3, 1, channels=64, out=64, size=(8, 8), batch=64, density=0.1),
    "32 to 64, batch 60": Case(3, 1, 2, channels=32, out=64, size=(16, 16), batch=60, density=0.1),
    "128 to 100, batch 33": Case(3, 1, channels=128, out=100, size=(4, 4), batch=33, density=0.05),
    "130 to 40, batch 9": Case(1, channels=130, out=40, size=(7, 7), batch=9, density=0.2),
    "40 to 50, batch 2": Case(3, 1, channels=40, out=50, size=(19, 37), batch=2, density=0.1),
    "200 channels, batch 32": Case(3, 1, groups=200, channels=200, out=200, size=(6, 6), batch=32, density=0.6),
    "long rows, batch 1": Case(3, 1, channels=3, out=4, size=(3, 300), batch=1),
    "long rows, batch 16": Case((1, 3), (0, 1), (1, 2), channels=3, out=4, size=(2, 135), batch=16),
}
SIZES = [(1, 1), (2, 2), (3, 5), (4, 4), (7, 7), (8, 8), (13, 9), (14, 14), (17, 16), (32, 32), (33, 20)]
BATCHES = [0, 1, 2, 8, 15, 16, 31, 32, 60, 64]
PATTERNS: dict[str, dict] = {
    "slack": {"slack": 5},
    "empty": {"density": 0.0},
    "empty with slack": {"density": 0.0, "slack": 3},
    "full": {"density": 2.0},
    "full with slack": {"density": 2.0, "slack": 4},
    "few weights": {"density": 0.02, "out": 40},  # rows without any
    "one weight": {"density": 2.0, "kernel": 1, "padding": 0, "channels": 1, "out": 1},
}


def _nan_beside(t: Tensor, dim: int) -> Tensor:
    return torch.stack([t, torch.full_like(t, float("nan"))], dim).select(dim, 0)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "batch last": lambda t: t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "every second image": lambda t: _nan_beside(t, 1),
    "some of the channels": lambda t: torch.cat([t, torch.full_like(t, float("nan"))], 1)[:, : t.shape[1]],
    "every second row": lambda t: _nan_beside(t, 3),
    "every second column": lambda t: _nan_beside(t, 4),
    "part of the width": lambda t: functional.pad(t, (3, 2), value=float("nan"))[..., 3:-2],
    "offset": lambda t: torch.cat([t.new_full((1,), float("nan")), t.flatten()])[1:].view_as(t),
    "one image": lambda t: t[:1].expand_as(t),
    "one channel": lambda t: t[:, :1].expand_as(t),
    "one column": lambda t: t[..., :1].expand_as(t),
    "one number": lambda t: t[:1, :1, :1, :1].expand_as(t),  # the gradient of a sum
}


def _cases() -> dict[str, Case]:
    cases = dict(LAYERS)
    change = lambda case, **fields: Case(**{**case.__dict__, **fields})  # noqa: E731
    for batch in (3, 17):
        cases |= {f"{name}, batch {batch}": change(case, batch=batch) for name, case in GEOMETRIES.items()}
        for name, fields in PATTERNS.items():
            cases[f"{name}, batch {batch}"] = change(BASES["3x3"], batch=batch, **fields)
        for name in LAYOUTS:
            both = {"batch": batch, "layout": name, "delta_layout": name}
            cases[f"{name}, batch {batch}"] = change(BASES["3x3"], **both)
        for base in ("stride 2", "1x1"):
            both = {"batch": batch, "layout": "channels_last", "delta_layout": "one number"}
            cases[f"channels_last, {base}, batch {batch}"] = change(BASES[base], **both)
    for base, case in BASES.items():
        for size in SIZES:
            for batch in (1, 8, 16):
                cases[f"{base}, {size}, batch {batch}"] = change(case, size=size, batch=batch, channels=3, out=4)
        cases |= {f"{base}, batch {batch}": change(case, batch=batch, size=(5, 6)) for batch in BATCHES}
    return cases


CASES = _cases()


def random_case(seed: int) -> Case:
    """A geometry that no list foresees."""
    r = random.Random(seed)
    kernel = (r.randint(1, 5), r.randint(1, 5))
    dilation = (r.randint(1, 3), r.randint(1, 3))
    padding = tuple(r.randint(0, 4) for _ in range(4))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    least = [max(1, n - padding[2 * i] - padding[2 * i + 1]) for i, n in enumerate(reach)]
    groups = r.choice([1, 1, 2, 3])
    layouts = list(LAYOUTS)
    return Case(
        kernel,
        padding,
        (r.randint(1, 4), r.randint(1, 4)),
        dilation,
        groups,
        channels=groups * r.randint(1, 6),
        out=groups * r.randint(1, 6),
        size=(least[0] + r.randint(0, 9), least[1] + r.randint(0, 20)),
        batch=r.choice([1, 2, 5, 7, 16, 19, 33]),
        density=r.choice([0.05, 0.2, 0.6]),
        slack=r.randint(0, 3),
        bias=r.random() < 0.5,
        layout=r.choice(layouts),
        delta_layout=r.choice(layouts),
    )


@dataclass(frozen=True)
class Problem:
    """Arguments of the operators, and what PyTorch makes of the dense weight in double precision."""

    case: Case
    pattern: Pattern
    input: Tensor
    values: Tensor
    bias: Tensor | None
    delta: Tensor
    output: Tensor
    gradients: list[Tensor]  # of input, values and bias


@functools.cache
def problem(case: Case, dtype: torch.dtype) -> Problem:
    generator, p = torch.Generator().manual_seed(4), case.pattern

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    input = LAYOUTS[case.layout](draw(case.batch, case.channels, *case.size))
    nnz = int(p.mask.sum())
    values = torch.cat([draw(nnz), torch.full((case.slack,), float("nan"), dtype=dtype)])
    bias = draw(case.out) if case.bias else None
    wide = [input.double(), p.dense(values).double(), (draw(case.out) if bias is None else bias).double()]
    leaves = [t.detach().contiguous().requires_grad_() for t in wide]
    with warnings.catch_warnings():  # PyTorch pads a copy for "same" with even kernels
        warnings.simplefilter("ignore")
        output = case.convolve(leaves[0], leaves[1], None if bias is None else leaves[2])
    delta = LAYOUTS[case.delta_layout](draw(*output.shape))
    grads = list(torch.autograd.grad(output, leaves if case.bias else leaves[:2], delta.double()))
    grads[1] = torch.cat([grads[1][p.mask], torch.zeros(case.slack, dtype=torch.float64)])
    return Problem(case, p, input, values, bias, delta, output.detach(), grads)

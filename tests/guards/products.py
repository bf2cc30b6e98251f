"""Generated products with a sparse weight: shapes, geometries, layouts, kernels, what is differentiated."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from support.conv_cases import LAYOUTS
from torch import Tensor
from torch.nn import functional

from .settings import ISAS, THREADS

MATRIX_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "features first": lambda t: t.movedim(-1, 0).contiguous().movedim(0, -1),
    "every second feature": lambda t: torch.stack([t, torch.full_like(t, float("nan"))], -1)[..., 0],
    "part of the features": lambda t: functional.pad(t, (3, 2), value=float("nan"))[..., 3:-2],
    "one row": lambda t: t[:1].expand_as(t),
    "one number": lambda t: t.flatten()[:1].expand_as(t) if t.numel() else t,
}
ALL = (True, True, True)
NEEDS = [ALL, ALL, (True, False, False), (False, True, False), (False, False, True), (True, True, False)]


@dataclass(frozen=True)
class Case:
    """A product. `call`: "layer", or "operator" for the function beneath it."""

    call: str
    conv: bool
    masked: bool
    shape: tuple[int, ...]  # of the input
    window: dict[str, Any]  # options of the dense twin
    density: float
    empty_rows: bool
    slack: int
    bias: bool
    dtype: torch.dtype
    autocast: bool
    backend: str
    kernel: str | None  # forced
    gradient: str  # of a masked weight
    needs: tuple[bool, bool, bool]
    layout: str
    delta_layout: str
    after: str
    isa: str
    threads: int


def draw(seed: int) -> Case:
    r = random.Random(seed)
    conv, masked, call = r.random() < 0.6, r.random() < 0.5, "operator" if r.random() < 0.25 else "layer"
    window, shape = _convolution(r, four_sides=call == "operator") if conv else _matrix(r)
    gradient = r.choice(["dense", "active", "moment"]) if masked else "active"
    if gradient == "moment" and (call == "operator" or len(shape) < (4 if conv else 2)):
        gradient = "dense"
    kernels = ["csr", "dense", "masked", *(["bits"] if masked or conv else []), *([] if conv else ["tiled"])]
    dtype = r.choice([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16])
    return Case(
        call=call,
        conv=conv,
        masked=masked,
        shape=shape,
        window=window,
        density=r.choice([0.0, 0.02, 0.1, 0.3, 0.7, 2.0]),
        empty_rows=r.random() < 0.2,
        slack=r.choice([0, 0, 1, 9]),
        bias=r.random() < 0.6,
        dtype=dtype,
        autocast=dtype != torch.float64 and r.random() < 0.2,
        backend=r.choice(["auto", "sparse", "dense", "masked"]),
        kernel=r.choice(kernels) if r.random() < 0.5 else None,
        gradient=gradient,
        needs=r.choice(NEEDS),
        layout=r.choice(list(LAYOUTS if conv else MATRIX_LAYOUTS)),
        delta_layout=r.choice(list(LAYOUTS if conv else MATRIX_LAYOUTS)),
        after=r.choice(["nothing", "nothing", "relu", "mask", "add"]),
        isa=r.choice(ISAS),
        threads=r.choice(THREADS),
    )


def _matrix(r: random.Random) -> tuple[dict[str, Any], tuple[int, ...]]:
    width = lambda: r.choice([1, r.randint(2, 20), r.randint(2, 70), r.randint(60, 200)])  # noqa: E731
    leading = [r.choice([0, 1, 1, 2, 3, 5, 7, 33]) for _ in range(r.randint(0, 3))]
    if len(leading) == 1 and r.random() < 0.3:
        leading = [r.randint(60, 200)]
    inputs = width()
    return {"in_features": inputs, "out_features": width()}, (*leading, inputs)


def _convolution(r: random.Random, four_sides: bool) -> tuple[dict[str, Any], tuple[int, ...]]:
    groups = r.choice([1, 1, 1, 2, 3])
    channels, out = groups * r.randint(1, 8), groups * r.randint(1, 8)
    if r.random() < 0.1:
        groups = channels = r.randint(2, 20)  # depthwise
        out = groups * r.randint(1, 2)
    kernel = [r.choice([1, 1, 2, 3, 3, 4, 5]) for _ in range(2)]
    dilation = [r.choice([1, 1, 1, 2, 3]) for _ in range(2)]
    stride = [r.choice([1, 1, 1, 2, 3, 4]) for _ in range(2)]
    padding: Any = tuple(r.choice([0, 0, 1, 2, 4]) for _ in range(2))
    mode = "zeros" if four_sides else r.choice(["zeros", "zeros", "reflect", "replicate", "circular"])
    if r.random() < 0.2:
        stride, padding = [1, 1], "same"
    elif four_sides and r.random() < 0.5:
        padding = tuple(r.choice([0, 0, 1, 3]) for _ in range(4))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]  # an image that any padding suits
    size = [max(n, *_numbers(padding), 5) + r.choice([0, 1, r.randint(0, 20)]) for n in reach]
    window = {"in_channels": channels, "out_channels": out, "kernel_size": tuple(kernel), "stride": tuple(stride)}
    window |= {"padding": padding, "dilation": tuple(dilation), "groups": groups, "padding_mode": mode}
    batch = r.choice([None, 0, 1, 1, 2, 3, 5, 16, 19, 33])
    return window, (*([] if batch is None else [batch]), channels, *size)


def _numbers(padding: Any) -> tuple[int, ...]:
    return (0,) if isinstance(padding, str) else padding

"""Generated layers and products against the dense masked twin in float64.

Errors may be as large as the dtype and the length of each sum explain, element by element: a sum of n products whose
magnitudes add up to s is off by (n + 2) u s at most, u being half the spacing of the numbers it is kept in (Higham,
Accuracy and Stability of Numerical Algorithms, section 3.1), and each rounding to a narrower dtype adds its u s.
"""

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from conv_cases import LAYOUTS
from torch import Tensor, nn
from torch.nn import functional

import sparsekern as sk

from .settings import ISAS, THREADS, running

Call = Callable[[Tensor, Tensor, Tensor | None], Tensor]
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
    dtype = r.choice([torch.float32, torch.float32, torch.float64, torch.bfloat16])
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


# ---- the dense twin


def dense_call(case: Case) -> Call:
    """What the twin computes."""
    if not case.conv:
        return functional.linear
    options = {key: case.window[key] for key in ("stride", "dilation", "groups")}
    mode, padding, sides = case.window["padding_mode"], case.window["padding"], _sides(case)

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if sides is None:
            return functional.conv2d(x, weight, bias, padding=padding, **options)
        padded = functional.pad(x, sides, mode="constant" if mode == "zeros" else mode)
        return functional.conv2d(padded, weight, bias, **options)

    return convolve


def _sides(case: Case) -> list[int] | None:
    """Left, right, top, bottom, where `conv2d` does not pad by itself."""
    padding, window = case.window["padding"], case.window
    if padding == "same" and window["padding_mode"] != "zeros":
        totals = [d * (k - 1) for d, k in zip(window["dilation"], window["kernel_size"], strict=True)]
        return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    if padding == "same":
        return None
    if len(padding) == 4:
        top, bottom, left, right = padding
        return [left, right, top, bottom]
    return None if window["padding_mode"] == "zeros" else [padding[1], padding[1], padding[0], padding[0]]


def passes(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None, delta: Tensor) -> list[Tensor]:
    """Output, and the gradients of input, weight and bias, in float64."""
    leaves = [t.detach().double().contiguous().requires_grad_() for t in (x, weight) if t is not None]
    leaves += [] if bias is None else [bias.detach().double().requires_grad_()]
    with warnings.catch_warnings():  # PyTorch pads a copy for "same" with even kernels
        warnings.simplefilter("ignore")
        output = call(leaves[0], leaves[1], leaves[2] if bias is not None else None)
    return [output.detach(), *torch.autograd.grad(output, leaves, delta.double())]


@dataclass(frozen=True)
class Bounded:
    """What should come out, and how far off it may be."""

    want: list[Tensor]
    error: list[Tensor]


def bounded(case: Case, x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, delta: Tensor) -> Bounded:
    call, gate = dense_call(case), mask.double()
    ones = None if bias is None else torch.ones_like(bias)
    sizes = None if bias is None else bias.abs()
    want = passes(call, x, weight * gate, bias, delta)
    magnitude = passes(call, x.abs(), weight.abs() * gate, sizes, delta.abs())
    terms = passes(call, torch.ones_like(x), gate, ones, torch.ones_like(delta))
    wide = _unit(torch.float64 if case.dtype == torch.float64 else torch.float32)
    narrow = _unit(torch.bfloat16 if case.autocast else case.dtype)
    roundings = [torch.full_like(t, 3.0) for t in want]  # of an operand, of the product, of its sum with the bias
    if case.conv and case.shape[0] and len(case.shape) == 4:
        roundings[2] += case.shape[0]  # torch may add up images one by one
    roundings[1] += _copies(case, x)
    error = [(wide * (n + 2) + narrow * r) * s for n, r, s in zip(terms, roundings, magnitude, strict=True)]
    return Bounded(want, error)


def _copies(case: Case, x: Tensor) -> Tensor | float:
    """How many numbers of a padded input each number of the input is, the gradients of which torch adds up."""
    sides = _sides(case) if case.conv else None
    if sides is None or case.window["padding_mode"] == "zeros":
        return 0.0
    leaf = torch.ones_like(x, dtype=torch.double).requires_grad_()
    padded = functional.pad(leaf, sides, mode=case.window["padding_mode"])
    return torch.autograd.grad(padded, leaf, torch.ones_like(padded))[0]


def _unit(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def moments(case: Case, x: Tensor, weight: Tensor, mask: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the squares of what each sample adds to the gradient of the weight, and how far off it may be."""
    want = error = torch.zeros_like(weight, dtype=torch.double)
    for i in range(len(x)):
        one = bounded(case, x[i : i + 1], weight, mask, None, delta[i : i + 1])
        share, off = one.want[2], one.error[2]
        want, error = want + share.square(), error + 2 * share.abs() * off + off.square()
    unit = _unit(torch.float64 if case.dtype == torch.float64 else torch.float32)
    return want, error + unit * (len(x) + 2) * (want + error)


# ---- what is tested


def check(seed: int) -> None:
    case = draw(seed)
    torch.manual_seed(seed)
    with running(case.isa, case.threads):
        try:
            _check(case)
        except Exception as error:
            raise AssertionError(f"{case}\n{type(error).__name__}: {error}") from error


def _check(case: Case) -> None:
    layouts = LAYOUTS if case.conv else MATRIX_LAYOUTS
    options = {k: v for k, v in case.window.items() if k != "padding"} if case.call == "operator" else case.window
    dense: Any = (nn.Conv2d if case.conv else nn.Linear)(**options, bias=case.bias, dtype=case.dtype)
    mask = torch.rand(dense.weight.shape) < case.density
    if case.empty_rows:
        mask[torch.rand(len(mask)) < 0.5] = False
    x = _laid_out(torch.randn(case.shape, dtype=torch.double).to(case.dtype), layouts[case.layout], case.conv)
    x.requires_grad_(case.needs[0])
    weight, bias, apply = (_operator if case.call == "operator" else _layer)(case, dense, mask)
    with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
        output = apply(x)
    assert output.dtype == (torch.bfloat16 if case.autocast else case.dtype), "dtype of the output"
    before = output.detach().clone()
    delta = _laid_out(
        torch.randn(output.shape, dtype=torch.double).to(output.dtype), layouts[case.delta_layout], case.conv
    )
    if output.requires_grad:
        changed, behind = _changed(case.after, output, delta)
        changed.backward(delta)
    else:
        behind = delta
    narrow = (lambda t: t.bfloat16()) if case.autocast else (lambda t: t)
    operands = [narrow(t.detach()).double() for t in (x, dense.weight)]
    offset = None if dense.bias is None else narrow(dense.bias.detach()).double()
    result = bounded(case, operands[0], operands[1], mask, offset, behind.detach().double())
    _compare("output", before, result, 0)
    if case.needs[0]:
        _compare("gradient of the input", x.grad, result, 1)
    if case.needs[1]:
        stored, straight = weight.dim() > 1, case.masked and case.gradient != "active"
        if not stored:
            got = torch.zeros(mask.shape, dtype=weight.dtype)
            got[mask] = weight.grad[: int(mask.sum())]
            assert not weight.grad[int(mask.sum()) :].any(), "the gradient of slack is not 0"
        else:
            got = weight.grad
        shown = torch.ones_like(mask) if straight else mask
        assert not got[~shown].any(), "the gradient off the pattern is not 0"
        _compare("gradient of the weight", got, Bounded([t * shown for t in result.want[2:3]], result.error[2:3]), 0)
    if case.needs[2] and bias is not None:
        _compare("gradient of the bias", bias.grad, result, 3)
    layer = getattr(apply, "__self__", apply)
    if case.gradient == "moment" and case.needs[1]:
        samples = case.shape[0]
        assert layer.samples == samples, f"{layer.samples} samples instead of {samples}"
        want, error = moments(case, operands[0], operands[1], mask, behind.detach().double())
        _compare("moment", layer.moment, Bounded([want], [error]), 0)


def _laid_out(t: Tensor, layout: Callable[[Tensor], Tensor], conv: bool) -> Tensor:
    """Layouts of images are those of batches."""
    if conv and t.dim() == 3:
        return layout(t[None])[0].detach()
    return layout(t).detach() if t.dim() else t


def _changed(after: str, output: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """The output after an operation in place, and the gradient of what it was before."""
    if after == "relu":
        changed = output.relu_()
        return changed, delta * (changed.detach() > 0)
    if after == "mask":
        keep = torch.rand(output.shape) < 0.5
        return output.mul_(keep), delta * keep
    return (output.add_(1), delta) if after == "add" else (output, delta)


def _layer(case: Case, dense: Any, mask: Tensor) -> tuple[Tensor, Tensor | None, Any]:
    kind: Any = {
        (False, False): sk.SparseLinear,
        (False, True): sk.MaskedLinear,
        (True, False): sk.SparseConv2d,
        (True, True): sk.MaskedConv2d,
    }[case.conv, case.masked]
    options = {"weight_gradient": case.gradient} if case.masked else {}
    topology = sk.Topology.from_mask(mask, capacity=int(mask.sum()) + case.slack)
    layer = kind.from_topology(dense, topology, backend=case.backend, **options)
    if case.kernel is not None:
        layer.set_kernel(case.kernel, "forced")
    layer.stored.requires_grad_(case.needs[1])
    if layer.bias is not None:
        layer.bias.requires_grad_(case.needs[2])
    return layer.stored, layer.bias, layer


def _operator(case: Case, dense: Any, mask: Tensor) -> tuple[Tensor, Tensor | None, Any]:
    """The operators have four-sided padding beside what layers have."""
    name = "masked" if case.masked else "expanded" if case.kernel == "dense" else "sparse"
    function = getattr(sk.ops, f"{name}_{'conv2d' if case.conv else 'linear'}")
    bits = case.masked or case.kernel == "bits"
    views = frozenset({"bits"} if bits else {"columns", "tiles"} if case.kernel == "tiled" else {"columns"})
    topology = sk.Topology.from_mask(mask, capacity=int(mask.sum()) + case.slack, views=views)
    weight = dense.weight.detach() if case.masked else topology.gather(dense.weight.detach())
    if not case.masked:
        weight[topology.nnz :] = float("nan")  # nobody may read it
    bias = None if dense.bias is None else dense.bias.detach()
    weight.requires_grad_(case.needs[1])
    options = {key: case.window[key] for key in ("stride", "padding", "dilation", "groups") if case.conv}
    if case.masked:
        options["active"] = case.gradient == "active"
    elif case.conv:
        options["kernel_size"] = case.window["kernel_size"]
    else:
        options["out_features"] = case.window["out_features"]
    if bias is not None:
        bias.requires_grad_(case.needs[2])
    return weight, bias, lambda x: function(x, weight, topology.index, bias=bias, **options)


def _compare(what: str, got: Tensor | None, result: Bounded, i: int) -> None:
    want, error = result.want[i], result.error[i]
    assert got is not None, f"{what}: there is none"
    assert got.shape == want.shape, f"{what}: {tuple(got.shape)} instead of {tuple(want.shape)}"
    off = (got.detach().double() - want).abs()
    wrong = ~(off <= error)  # a NaN is wrong
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} are wrong; at {at} {got[at].item()!r} instead of "
            f"{want[at].item()!r}, off by {off[at].item():.3g} where {error[at].item():.3g} may be"
        )

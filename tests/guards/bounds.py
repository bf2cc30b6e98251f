"""What the dense masked twin of a generated product computes in float64, and how far off it other results may be.

Errors may be as large as the dtype and the length of each sum explain, element by element: a sum of n products whose
magnitudes add up to s is off by (n + 2) u s at most, u being half the spacing of the numbers it is kept in (Higham,
Accuracy and Stability of Numerical Algorithms, section 3.1), and each rounding to a narrower dtype adds its u s and
half of the least subnormal number.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .products import Case

Call = Callable[[Tensor, Tensor, Tensor | None], Tensor]


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
    stored = torch.bfloat16 if case.autocast else case.dtype
    narrow, least = _unit(stored), torch.finfo(stored).smallest_normal * _unit(stored)  # half a subnormal's last digit
    roundings = [torch.full_like(t, 3.0) for t in want]  # of an operand, of the product, of its sum with the bias
    if case.conv and case.shape[0] and len(case.shape) == 4:
        roundings[2] += case.shape[0]  # torch may add up images one by one
    roundings[1] += _copies(case, x)
    error = [(wide * (n + 2) + narrow * r) * s + least * r for n, r, s in zip(terms, roundings, magnitude, strict=True)]
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

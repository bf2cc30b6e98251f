"""Inputs of the products with a dense weight under a bitmask, and what they give."""

import torch
from support.patterns import Pattern, Sample, mask, patterns, plain, strided, tiles
from support.samples_conv import SHAPES, Shape, convolve
from torch import Tensor


def weight_of(p: Pattern, dtype: torch.dtype) -> Tensor:
    """Normal numbers with NaN off the pattern, which nobody may multiply."""
    return torch.where(p.mask, plain(p.rows, p.cols, dtype=dtype), float("nan"))


def masked_linear(dtype: torch.dtype) -> list[Sample]:
    """input, weight, index, bias, active"""
    kinds = {**patterns(), "long": Pattern(mask(2, 1100, 0.02)), "high": Pattern(mask(1100, 2, 0.02)), "tiles": tiles()}
    samples, others = [], {"vector": (), "one row": (1,), "zero batch": (0,), "sequence": (2, 3)}
    for i, (name, p) in enumerate(kinds.items()):
        other = list(others)[i % 4]
        for batch, leading in {"batch": (130,) if name == "tiles" else (5,), other: others[other]}.items():
            bias = plain(p.rows, dtype=dtype) if batch != "batch" or i % 2 else None
            args = (plain(*leading, p.cols, dtype=dtype), weight_of(p, dtype), p.index(bits=True), bias, i % 2 == 0)
            samples.append(Sample(f"{name}, {batch}", args, p))
    args = (strided(4, p.cols, dtype=dtype), weight_of(p, dtype).t().contiguous().t(), p.index(bits=True), None, True)
    return [*samples, Sample("strided", args, p)]


def masked_linear_backward(dtype: torch.dtype) -> list[Sample]:
    """grad_output, input, weight, index, need_input, need_weight, need_bias, active"""
    samples = []
    for i, sample in enumerate(masked_linear(dtype)):
        input, weight, index, _, active = sample.args
        make = strided if "strided" in sample.name else plain
        grad_output = make(*input.shape[:-1], weight.shape[0], dtype=dtype)
        args = (grad_output, input, weight, index, *_needs(i), active)
        samples.append(Sample(sample.name, args, sample.pattern))
    return samples


def _needs(i: int) -> tuple[bool, bool, bool]:
    return (True, True, True) if i % 3 else (bool(i % 2), not i % 2, bool(i % 2))


def _shapes() -> dict[str, Shape]:
    return {
        **SHAPES,
        "wide": Shape(70, 66, (1, 2), padding=(0, 0, 1, 0), batch=2, size=(3, 4)),
        "wide groups": Shape(264, 264, (2, 1), (2, 3), (0, 1, 0, 0), groups=2, batch=1, size=(3, 4)),
        "many pixels": Shape(2, 3, (1, 1), padding=(0, 0, 0, 0), batch=2, size=(32, 33)),
        "stride beyond the image": Shape(2, 3, (1, 1), (3, 3), (0, 0, 0, 0), size=(2, 1)),
    }


def masked_conv2d(dtype: torch.dtype) -> list[Sample]:
    """input, weight, index, bias, kernel_size, stride, padding, dilation, groups, active"""
    samples = []
    for i, (name, shape) in enumerate(_shapes().items()):
        p, make = shape.pattern, strided if name in ("strided", "groups") else plain
        if name == "wide":
            p.mask[:, :128] = False
        if name == "wide groups":
            p.mask[:132, :128] = False
        for last in (False, True) if name in ("plain", "wide") else (i % 2 == 0,):
            input = make(shape.batch, shape.channels, *shape.size, dtype=dtype)
            weight = weight_of(p, dtype).reshape(shape.out, -1, *shape.kernel)
            if last:
                input, weight = (t.contiguous(memory_format=torch.channels_last) for t in (input, weight))
            bias = plain(shape.out, dtype=dtype) if i % 3 else None
            args = (input, weight, p.index(bits=True), bias, *shape.window, name != "dilated")
            samples.append(Sample(f"{name}{', channels last' * last}", args, p))
    return samples


def masked_conv2d_backward(dtype: torch.dtype) -> list[Sample]:
    """grad_output, input, weight, index, need_input, need_weight, need_bias, kernel_size, ..., groups, active"""
    samples = []
    for i, sample in enumerate(masked_conv2d(dtype)):
        input, weight, index, _, *window, active = sample.args
        make = strided if sample.name in ("strided", "pointwise") else plain
        shape = convolve(input.double(), weight.double(), None, *window).shape
        grad_output = make(*shape, dtype=dtype)
        if "last" in sample.name:
            grad_output = grad_output.contiguous(memory_format=torch.channels_last)
        needs = _needs(1 if sample.name.startswith(("wide", "many")) else i)
        args = (grad_output, input, weight, index, *needs, *window, active)
        samples.append(Sample(sample.name, args, sample.pattern))
    return samples


def _dense(p: Pattern, weight: Tensor) -> Tensor:
    return torch.where(p.mask.reshape(weight.shape), weight, 0).double()


def expected_masked_linear(p: Pattern, input: Tensor, weight: Tensor, index: list, bias: Tensor | None, *_) -> Tensor:
    return input.double() @ _dense(p, weight).t() + (0 if bias is None else bias.double())


def expected_masked_linear_backward(
    p: Pattern, grad_output: Tensor, input: Tensor, weight: Tensor, index: list, *needs_and_active: bool
) -> list[Tensor]:
    *needs, active = needs_and_active
    delta, x = grad_output.double(), input.double()
    dense = delta.reshape(-1, p.rows).t() @ x.reshape(-1, p.cols)
    every = [delta @ _dense(p, weight), dense * p.mask if active else dense, delta.reshape(-1, p.rows).sum(0)]
    return [g if wanted else torch.empty(0).double() for g, wanted in zip(every, needs, strict=True)]


def expected_masked_conv2d(
    p: Pattern, input: Tensor, weight: Tensor, index: list, bias: Tensor | None, *window_and_active
) -> Tensor:
    bias = None if bias is None else bias.double()
    return convolve(input.double(), _dense(p, weight), bias, *window_and_active[:-1])


def expected_masked_conv2d_backward(
    p: Pattern, grad_output: Tensor, input: Tensor, weight: Tensor, index: list, *needs_window_active
) -> list[Tensor]:
    needs, window, active = needs_window_active[:3], needs_window_active[3:-1], needs_window_active[-1]
    masked = _dense(p, weight)
    leaves = [t.detach().requires_grad_() for t in (input.double(), masked, torch.zeros(p.rows).double())]
    grad_input, dense, grad_bias = torch.autograd.grad(convolve(*leaves, *window), leaves, grad_output.double())
    dense = dense * p.mask.reshape(dense.shape) if active else dense
    every = [grad_input, dense, grad_bias]
    return [g if wanted else torch.empty(0).double() for g, wanted in zip(every, needs, strict=True)]

"""The sparse convolution: forward and gradients against PyTorch's dense one, on every instruction set."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import conv_cases
from support.conv_cases import CASES, Case, problem
from torch import Tensor

from sparsekern import ops
from sparsekern.ops import expand

forward = torch.ops.sparsekern.sparse_conv2d
backward = torch.ops.sparsekern.sparse_conv2d_backward
has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key("sparsekern::sparse_conv2d", "CPU")
compiled = pytest.mark.skipif(not has_kernel, reason="holds for the compiled kernels")

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}
BASE = Case(3, 1, channels=5, out=7, density=0.4, slack=3)


def check(case: Case, dtype: torch.dtype, op: Callable = ops.sparse_conv2d) -> None:
    """Forward and all gradients equal PyTorch's, whose sums are taken in double precision."""
    p = problem(case, dtype)
    leaves: list[Any] = [None if t is None else t.detach().requires_grad_() for t in (p.input, p.values, p.bias)]
    output = op(leaves[0], leaves[1], p.pattern.index(), leaves[2], **case.window)
    actual = [output, *torch.autograd.grad(output, [leaf for leaf in leaves if leaf is not None], p.delta)]
    names = ("output", "grad_input", "grad_values", "grad_bias")
    for name, result, wanted in zip(names, actual, [p.output, *p.gradients], strict=False):
        assert result.dtype == dtype
        assert result.shape == wanted.shape, f"{name} of {case}"
        scale = max(1.0, float(wanted.abs().max()) if wanted.numel() else 0.0)
        torch.testing.assert_close(
            result.double(),
            wanted,
            rtol=TOLERANCE[dtype],
            atol=TOLERANCE[dtype] * scale,
            msg=lambda message, name=name: f"{name} of {case}: {message}",
        )
    assert not actual[2][int(p.pattern.mask.sum()) :].any(), "slack must have gradient zero"
    assert output.is_contiguous() or output.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("isa", "poisoned")
@pytest.mark.parametrize("name", CASES)
def test_against_dense(name: str) -> None:
    for dtype in TOLERANCE:
        check(CASES[name], dtype)


@pytest.mark.usefixtures("isa", "poisoned")
def test_random_geometries() -> None:
    for seed in range(80):
        check(conv_cases.random_case(seed), torch.float32)


@pytest.mark.usefixtures("isa", "poisoned")
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_strips_of_few_images(batch: int) -> None:
    """Few images are cut into strips, whose rows meet, end early or lie in the padding."""
    for size in ((32, 5), (33, 7), (16, 16), (7, 20), (5, 3)):
        for options in (
            {"padding": (0, 5, 1, 0)},
            {"padding": (2, 0, 1, 1), "layout": "channels_last"},
            {"padding": 1},
        ):
            check(Case(3, size=size, batch=batch, density=0.6, **options), torch.float32)
        check(Case(5, 4, dilation=2, size=size, batch=batch, delta_layout="channels_last"), torch.float64)
        check(Case(1, size=size, batch=batch, density=0.6), torch.bfloat16)


@pytest.mark.usefixtures("isa", "poisoned")
@pytest.mark.parametrize("size", [(64, 64), (63, 66)], ids=["aligned", "unaligned"])
def test_a_result_too_large_for_a_cache(size: tuple[int, int]) -> None:
    check(Case(3, 1, channels=16, out=17, size=size, batch=18), torch.float32)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("panel_bytes", [64 << 20, 1000], ids=["whole", "panels"])
def test_expanded_weight(panel_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expand, "PANEL_BYTES", panel_bytes)
    for name, case in CASES.items():
        if name.endswith("batch 3"):
            check(case, torch.float32, ops.expanded_conv2d)


@pytest.mark.usefixtures("isa", "poisoned")
@pytest.mark.parametrize("batch", [1, 20])
def test_returns_only_what_is_needed(batch: int) -> None:
    p = problem(Case(**{**BASE.__dict__, "batch": batch}), torch.float32)
    window = [[3, 3], [1, 1], [1, 1, 1, 1], [1, 1], 1]
    arguments = (p.delta, p.input, p.values, p.pattern.index())
    whole = backward(*arguments, True, True, True, *window)
    for i in range(8):
        need = [bool(i & 1), bool(i & 2), bool(i & 4)]
        for wanted, part, full in zip(need, backward(*arguments, *need, *window), whole, strict=True):
            assert torch.equal(part, full) if wanted else part.shape == (0,)


@compiled
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("batch", [1, 3, 16, 40])
@pytest.mark.parametrize("kind", ["3x3", "1x1", "depthwise", "stride 2"])
def test_same_bits_for_every_number_of_threads(kind: str, batch: int, threads: Callable[[int], None]) -> None:
    case = {
        "3x3": Case(3, 1, channels=24, out=40, size=(15, 21), batch=batch),
        "1x1": Case(1, channels=70, out=66, size=(14, 14), batch=batch),
        "depthwise": Case(3, 1, groups=64, channels=64, out=64, size=(16, 16), batch=batch),
        "stride 2": Case(3, 1, 2, channels=33, out=32, size=(17, 16), batch=batch),
    }[kind]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        p, results = problem(case, dtype), []
        index = p.pattern.index()
        for n in (1, 2, 5):
            threads(n)
            leaves: list[Any] = [t.detach().requires_grad_() for t in (p.input, p.values, p.bias) if t is not None]
            output = ops.sparse_conv2d(*leaves[:2], index, leaves[2], **case.window)
            results.append((output, *torch.autograd.grad(output, leaves, p.delta)))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("batch", [3, 17])
def test_images_do_not_mix(batch: int) -> None:
    """A NaN stays within its image, in the input gradient too."""
    p = problem(Case(**{**BASE.__dict__, "batch": batch}), torch.float32)
    window = [[3, 3], [1, 1], [1, 1, 1, 1], [1, 1], 1]
    index, bad = p.pattern.index(), batch // 2
    sick_input, sick_delta = p.input.clone(), p.delta.clone()
    sick_input[bad] = sick_delta[bad] = float("nan")
    clean, sick = (forward(x, p.values, index, p.bias, *window) for x in (p.input, sick_input))
    needs = (True, False, False)
    clean_grad, sick_grad = (backward(d, p.input, p.values, index, *needs, *window)[0] for d in (p.delta, sick_delta))
    others = [i for i in range(batch) if i != bad]
    for a, b in ((clean, sick), (clean_grad, sick_grad)):
        torch.testing.assert_close(a[others], b[others])
        assert b[bad].isnan().any()


@compiled  # the reference multiplies the zeros, which spreads a NaN
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("batch", [1, 18])
def test_zeros_are_not_multiplied(batch: int) -> None:
    """A NaN reaches the outputs whose nonzeros meet it, and no others."""
    case = Case(**{**BASE.__dict__, "batch": batch, "density": 0.1})
    p = problem(case, torch.float32)
    x, weight = torch.zeros_like(p.input), p.pattern.mask.float()
    x[0, 1, 4, 5] = 1
    reached = case.convolve(x, weight, None) != 0
    x[0, 1, 4, 5] = float("nan")
    output = forward(x, p.values, p.pattern.index(), None, [3, 3], [1, 1], [1, 1, 1, 1], [1, 1], 1)
    assert reached.any()
    assert torch.equal(output.isnan(), reached)


@pytest.mark.parametrize("op", [ops.sparse_conv2d, ops.expanded_conv2d])
def test_keeps_the_memory_format(op: Callable) -> None:
    p = problem(BASE, torch.float32)
    for memory_format in (torch.channels_last, torch.contiguous_format):
        output = op(p.input.contiguous(memory_format=memory_format), p.values, p.pattern.index(), **BASE.window)
        assert output.is_contiguous(memory_format=memory_format)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("batch", [1, 3, 17])
def test_writes_the_memory_format(batch: int) -> None:
    """The kernels write it themselves, also for few images, and their gradients are those of the other format."""
    p, results = problem(Case(**{**BASE.__dict__, "batch": batch}), torch.float32), []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x, delta = (t.contiguous(memory_format=memory_format) for t in (p.input, p.delta))
        window = [[3, 3], [1, 1], [1, 1, 1, 1], [1, 1], 1]
        output = forward(x, p.values, p.pattern.index(), p.bias, *window)
        grad_input, grad_values, _ = backward(delta, x, p.values, p.pattern.index(), True, True, False, *window)
        assert output.is_contiguous(memory_format=memory_format)
        assert grad_input.is_contiguous(memory_format=memory_format)
        results.append((output, grad_input, grad_values))
    for plain, last in zip(*results, strict=True):
        torch.testing.assert_close(plain, last, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("isa")
def test_without_batch_dimension() -> None:
    p = problem(BASE, torch.float32)
    output = ops.sparse_conv2d(p.input[1], p.values, p.pattern.index(), p.bias, **BASE.window)
    torch.testing.assert_close(output.double(), p.output[1], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", ["plain", "strided", "grouped"])
def test_gradcheck(name: str) -> None:
    case = {
        "plain": BASE,
        "strided": Case(3, (1, 0, 2, 1), (2, 3), channels=2, out=3, size=(6, 5), slack=2),
        "grouped": Case((2, 3), "same", dilation=2, groups=2, size=(4, 5), batch=17),
    }[name]
    p = problem(case, torch.float64)
    leaves = [t.detach().nan_to_num().requires_grad_() for t in (p.input, p.values, p.bias) if t is not None]

    def apply(input: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        return ops.sparse_conv2d(input, values, p.pattern.index(), bias, **case.window)

    assert torch.autograd.gradcheck(apply, leaves, fast_mode=True)
    assert torch.autograd.gradcheck(apply, leaves[:2], fast_mode=True)


@pytest.mark.parametrize("op", [ops.sparse_conv2d, ops.expanded_conv2d])
def test_no_second_derivative(op: Callable) -> None:
    p = problem(BASE, torch.float32)
    x = p.input.clone().requires_grad_()
    output = op(x, p.values.nan_to_num(), p.pattern.index(), p.bias, **BASE.window)
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(output.sum(), x, create_graph=True)


@pytest.mark.parametrize("op", [ops.sparse_conv2d, ops.expanded_conv2d])
def test_compiles_to_one_graph(op: Callable) -> None:
    p = problem(BASE, torch.float32)
    leaves = [t.detach().nan_to_num().requires_grad_() for t in (p.input, p.values, p.bias) if t is not None]
    index = p.pattern.index()

    def apply(input: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return torch.relu(op(input, values, index, bias, **BASE.window))

    expected = torch.autograd.grad(apply(*leaves), leaves, p.delta)
    compiled_apply = torch.compile(apply, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled_apply(*leaves), leaves, p.delta)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("op", [ops.sparse_conv2d, ops.expanded_conv2d])
def test_under_autocast(op: Callable, dtype: torch.dtype) -> None:
    p = problem(BASE, torch.float32)
    values = p.values.nan_to_num().requires_grad_()
    with torch.autocast("cpu", dtype):
        output = op(p.input, values, p.pattern.index(), p.bias, **BASE.window)
    output.sum().backward()
    assert output.dtype == dtype
    assert values.grad is not None
    assert values.grad.dtype == torch.float32
    torch.testing.assert_close(output.double(), p.output, rtol=2e-2, atol=5e-2)


def _errors() -> dict[str, tuple[str, dict]]:
    p = problem(BASE, torch.float32)
    x, values, index = p.input, p.values, p.pattern.index()
    return {
        "values dtype": ("values must have the input's dtype torch.float32, got", {"values": values.double()}),
        "bias dtype": (r"bias must be torch.float32 \(7,\), got torch.float64", {"bias": torch.zeros(7).double()}),
        "bias shape": (r"bias must be torch.float32 \(7,\)", {"bias": torch.zeros(5)}),
        "values shape": ("values must have the shape", {"values": values[:-1]}),
        "channels": ("index describes 45 weights for an output channel", {"input": x[:, :4]}),
        "kernel": ("a kernel of .5, 5. have 125", {"kernel_size": 5}),
        "groups": ("groups must divide 5 input and 7 output channels, got 2", {"groups": 2}),
        "no groups": ("groups must divide", {"groups": 0}),
        "dimensions": (r"\[batch, channels, height, width\], got shape \(5, 9\)", {"input": x[0, :, :, 0]}),
        "layout": ("dense tensor", {"input": x.to_sparse()}),
        "device": ("on one device", {"input": x.to("meta")}),
        "index": ("8 tensors", {"index": index[:5]}),
        "small image": ("does not fit an input of", {"input": x[..., :2], "padding": 0}),
        "dilated": ("does not fit an input of", {"dilation": (1, 6), "padding": 0}),
        "negative padding": ("padding must be a whole number or a pair of them, at least 0", {"padding": (1, -1)}),
        "negative side": ("padding must be", {"padding": (0, 1, 0, -1)}),
        "three paddings": ("padding must be", {"padding": (1, 1, 1)}),
        "padding name": ('"same" or "valid", got \'full\'', {"padding": "full"}),
        "same, strided": ('padding="same" needs stride 1, got', {"padding": "same", "stride": 2}),
        "no stride": ("stride must be a whole number or a pair of them, at least 1", {"stride": 0}),
        "three strides": ("stride must be", {"stride": (1, 2, 3)}),
        "no dilation": ("dilation must be", {"dilation": (1, 0)}),
        "no kernel": ("kernel_size must be", {"kernel_size": 0}),
        "half a stride": ("stride must be", {"stride": (1.5, 1)}),
        "endless dilation": ("dilation must be .* below", {"dilation": 2**62}),
        "endless padding": ("padding must be .* below", {"padding": (0, 2**31)}),
    }


@pytest.mark.parametrize("op", [ops.sparse_conv2d, ops.expanded_conv2d])
@pytest.mark.parametrize("name", _errors())
def test_refuses(name: str, op: Callable) -> None:
    p, (message, changed) = problem(BASE, torch.float32), _errors()[name]
    arguments = {"input": p.input, "values": p.values, "index": p.pattern.index(), "bias": p.bias, **BASE.window}
    with pytest.raises(ValueError, match=message):
        op(**{**arguments, **changed})

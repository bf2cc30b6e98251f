"""The sparse linear layer: forward and gradients against the reference, on every instruction set."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsekern import ops
from sparsekern.ops import extension
from sparsekern.ops.sparse_linear import sparse_linear_backward_reference, sparse_linear_reference
from sparsekern.topology import Topology

backward = torch.ops.sparsekern.sparse_linear_backward
compiled = pytest.mark.skipif(extension is None, reason="holds for the compiled kernels")

# out, in, nonzeros, unused capacity
SHAPES = {
    "square": (64, 64, 1024, 0),
    "odd": (37, 53, 400, 7),
    "one row": (1, 70, 20, 0),
    "one column": (70, 1, 20, 3),
    "one weight": (1, 1, 1, 0),
    "empty": (20, 30, 0, 0),
    "empty with slack": (20, 30, 0, 5),
    "full": (33, 40, 33 * 40, 0),
    "empty rows": (150, 140, 60, 0),
    "many blocks": (270, 300, 9000, 11),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@functools.cache
def pattern(shape: str, form: str = "csc") -> Topology:
    rows, cols, nnz, slack = SHAPES[shape]
    generator, views = torch.Generator().manual_seed(1), frozenset({form})
    return Topology.random((rows, cols), nnz, generator=generator, capacity=nnz + slack, views=views)


def sample(topology: Topology, *leading: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """input, values (NaN in the slack, which nobody may read), bias, grad_output"""
    values = topology.from_csr(torch.randn(topology.nnz, dtype=dtype), fill=float("nan"))
    bias = torch.randn(topology.rows, dtype=dtype)
    x = torch.randn(*leading, topology.cols, dtype=dtype)
    return x, values, bias, torch.randn(*leading, topology.rows, dtype=dtype)


def check(topology: Topology, x: Tensor, values: Tensor, bias: Tensor | None, delta: Tensor) -> None:
    """Forward and all gradients equal the reference's, whose sums are taken in double precision."""
    wide: list[Any] = [None if t is None else t.double() for t in (x, values, bias, delta)]
    tolerance = TOLERANCE[x.dtype]
    output = ops.sparse_linear(x, values, topology.index, bias, topology.rows)
    gradients = backward(delta, x, values, topology.index, True, True, True)
    expected = [
        sparse_linear_reference(wide[0], wide[1], topology.index, wide[2], topology.rows),
        *sparse_linear_backward_reference(wide[3], wide[0], wide[1], topology.index, True, True, True),
    ]
    for actual, wanted in zip([output, *gradients], expected, strict=True):
        assert actual.dtype == x.dtype
        assert actual.is_contiguous()
        scale = max(1.0, float(wanted.abs().max()) if wanted.numel() else 0.0)
        torch.testing.assert_close(actual.double(), wanted, rtol=tolerance, atol=tolerance * scale)
    assert not gradients[1][topology.nnz :].any(), "slack must have gradient zero"


@pytest.mark.usefixtures("isa", "poisoned")
@pytest.mark.parametrize("form", ["csc", "narrow", "tiles"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("shape", SHAPES)
def test_against_reference(shape: str, dtype: torch.dtype, form: str) -> None:
    topology = pattern(shape, form)
    for batch in (1, 3, 16, 31, 60, 100, 128, 200):
        x, values, bias, delta = sample(topology, batch, dtype=dtype)
        check(topology, x, values, bias, delta)
        check(topology, x, values, None, delta)


def strided(t: Tensor) -> Tensor:
    return torch.stack([t, torch.full_like(t, float("nan"))], dim=-1)[..., 0]


LAYOUTS = {
    "transposed": lambda t: t.t().contiguous().t(),
    "strided rows": lambda t: torch.stack([t, torch.full_like(t, float("nan"))], dim=1)[:, 0],
    "strided columns": strided,
    "offset": lambda t: torch.cat([t.new_full((1,), float("nan")), t.flatten()])[1:].view_as(t),
    "expanded": lambda t: t[:1].expand_as(t),
    "one number": lambda t: t[:1, :1].expand_as(t),
    "3-D": lambda t: t.reshape(4, -1, t.shape[-1]),
    "4-D": lambda t: t.reshape(2, 2, -1, t.shape[-1]),
    "3-D transposed": lambda t: t.reshape(4, -1, t.shape[-1]).transpose(0, 1),
    "3-D narrow": lambda t: torch.cat([t, t], 1).reshape(4, -1, 2 * t.shape[-1])[..., : t.shape[-1]],
    "3-D expanded": lambda t: t[:6].unsqueeze(0).expand(4, 6, t.shape[-1]),
}


@pytest.mark.usefixtures("isa", "poisoned")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    topology = pattern("odd")
    x, values, bias, delta = sample(topology, 24)
    check(topology, LAYOUTS[layout](x), values, bias, LAYOUTS[layout](delta))


@pytest.mark.usefixtures("isa", "poisoned")
@pytest.mark.parametrize("shape", ["odd", "empty"])
def test_vector_and_empty_batch(shape: str) -> None:
    topology = pattern(shape)
    x, values, bias, delta = sample(topology)
    check(topology, x, values, bias, delta)
    for leading in ((0,), (0, 3), (2, 0)):
        x, values, bias, delta = sample(topology, *leading)
        assert ops.sparse_linear(x, values, topology.index, bias, topology.rows).shape == (*leading, topology.rows)
        grad_input, grad_values, grad_bias = backward(delta, x, values, topology.index, True, True, True)
        assert grad_input.shape == x.shape
        assert torch.equal(grad_values, torch.zeros(topology.capacity))
        assert torch.equal(grad_bias, torch.zeros(topology.rows))


@pytest.mark.usefixtures("isa")
def test_returns_only_what_is_needed() -> None:
    topology = pattern("odd")
    x, values, _, delta = sample(topology, 20)
    whole = backward(delta, x, values, topology.index, True, True, True)
    for i in range(8):
        need = [bool(i & 1), bool(i & 2), bool(i & 4)]
        for wanted, part, full in zip(need, backward(delta, x, values, topology.index, *need), whole, strict=True):
            assert torch.equal(part, full) if wanted else part.shape == (0,)


@compiled  # PyTorch's own product gives other bits on some processors
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("form", ["csc", "narrow", "tiles"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 40, 128, 300])
def test_same_bits_for_every_number_of_threads(form: str, batch: int, dtype: torch.dtype, threads) -> None:
    topology = pattern("many blocks", form)
    x, values, bias, delta = (t.to(dtype) for t in sample(topology, batch))
    results = []
    for n in (1, 2, 5):
        threads(n)
        output = ops.sparse_linear(x, values, topology.index, bias, topology.rows)
        results.append((output, *backward(delta, x, values, topology.index, True, True, True)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@compiled  # the reference multiplies the zeros, which spreads a NaN
@pytest.mark.usefixtures("isa")
def test_special_numbers_pass_through() -> None:
    topology = Topology.from_mask(torch.eye(20, dtype=torch.bool))
    numbers = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e-40, 3.4e38, 6e-8, 65519.0])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.zeros(20, 20, dtype=dtype)
        x[:7, 0] = numbers.to(dtype)
        output = ops.sparse_linear(x, torch.ones(20, dtype=dtype), topology.index, None, 20)
        assert torch.equal(output.isnan().nonzero(), torch.tensor([[0, 0]]))
        if dtype == torch.bfloat16 and output[3, 0] == 0:  # what multiplies pairs of bfloat16 flushes subnormals
            x[3, 0] = 0
        assert torch.equal(output[1:, 0], x[1:, 0])


@pytest.mark.usefixtures("isa")
def test_float16_overflows_as_dense_does() -> None:
    """Sums are taken in float32 and rounded once: 65519 is the largest that stays finite."""
    topology = Topology.from_mask(torch.ones(1, 3, dtype=torch.bool))
    x = torch.tensor([[256.0, 128, 8], [-256, -128, -8], [256, 127, 0.5], [6e4, 6e4, -6e4]]).half()
    weight = torch.tensor([128.0, 256, 0.5]).half()
    output = ops.sparse_linear(x, weight, topology.index, None, 1)
    assert torch.equal(output, torch.nn.functional.linear(x, weight[None]))
    assert output.flatten().tolist()[:2] == [float("inf"), -float("inf")]
    assert output[2].isfinite().all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("form", ["csc", "narrow", "tiles"])
def test_gradcheck(form: str) -> None:
    topology = pattern("odd", form)
    x, values, bias, _ = sample(topology, 2, 3, dtype=torch.float64)
    values = torch.nan_to_num(values)  # slack too is perturbed, and its gradient is zero
    arguments = [t.requires_grad_() for t in (x, values, bias)]
    apply = lambda x, values, bias: ops.sparse_linear(x, values, topology.index, bias, topology.rows)  # noqa: E731
    torch.autograd.gradcheck(apply, arguments, fast_mode=True)
    torch.autograd.gradcheck(lambda x, values: apply(x, values, None), arguments[:2], fast_mode=True)


def test_opcheck() -> None:
    topology = pattern("odd", "tiles")
    x, values, bias, delta = sample(topology, 6)
    values = torch.nan_to_num(values)
    for b in (bias, None):
        arguments = [t if t is None else t.detach().requires_grad_() for t in (x, values, b)]
        call = (arguments[0], arguments[1], topology.index, arguments[2], topology.rows)
        torch.library.opcheck(torch.ops.sparsekern.sparse_linear.default, call)
    torch.library.opcheck(backward.default, (delta, x, values, topology.index, True, True, False))


def test_compiles_to_one_graph() -> None:
    topology = pattern("odd")
    x, values, bias, delta = sample(topology, 6)
    arguments = [t.requires_grad_() for t in (x, torch.nan_to_num(values), bias)]

    def apply(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return torch.relu(ops.sparse_linear(x, values, topology.index, bias, topology.rows))

    expected = torch.autograd.grad(apply(*arguments), arguments, delta)
    compiled_apply = torch.compile(apply, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled_apply(*arguments), arguments, delta)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@compiled
def test_refuses_what_does_not_fit() -> None:
    topology = pattern("odd")
    x, values, bias, delta = sample(topology, 4)
    index, rows, nnz = topology.index, topology.rows, topology.nnz
    linear = torch.ops.sparsekern.sparse_linear
    wide_index = [*index[:4], index[4].long(), *index[5:]]
    cases = {
        "53 features": lambda: linear(x[:, :-1], values, index, bias, rows),
        "values must have the input's dtype": lambda: linear(x, values.double(), index, bias, rows),
        "bias must have the input's dtype": lambda: linear(x, values, index, bias.double(), rows),
        "bias must be a vector of 37": lambda: linear(x, values, index, bias[:-1], rows),
        "400 nonzeros": lambda: linear(x, values[: nnz - 1], index, bias, rows),
        "out_features is 36": lambda: linear(x, values, index, None, rows - 1),
        "8 tensors": lambda: linear(x, values, index[:5], bias, rows),
        "t_pos must be a contiguous int32": lambda: linear(x, values, wide_index, bias, rows),
        "take float32, float64, bfloat16 or float16": lambda: linear(x.int(), values.int(), index, None, rows),
        "leading dimensions": lambda: backward(delta[:-1], x, values, index, True, True, True),
        "grad_output must have the input's dtype": lambda: backward(delta.double(), x, values, index, True, True, True),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("op", [ops.sparse_linear, ops.expanded_linear])
@pytest.mark.parametrize("dtype", [torch.double, torch.bfloat16, torch.float16], ids=str)
def test_strided_values_and_bias(op: Callable, dtype: torch.dtype) -> None:
    """Values and a bias that are views with strides, also of one number."""
    topology = Topology.random((20, 30), 100)
    x = torch.randn(3, 30, dtype=dtype)
    many, few = (torch.randn(n, 2, dtype=dtype, requires_grad=True) for n in (100, 20))
    one = torch.randn(1, dtype=dtype, requires_grad=True)
    for values, bias in ((many[:, 1], few[:, 0]), (one.expand(100), one.expand(20))):
        got = op(x, values, topology.index, bias)
        want = op(x, values.contiguous(), topology.index, bias.contiguous())
        assert torch.equal(got, want)
        delta = torch.randn_like(want)
        for a, b in zip(
            torch.autograd.grad(got, (many, few, one), delta, allow_unused=True),
            torch.autograd.grad(want, (many, few, one), delta, allow_unused=True),
            strict=True,
        ):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)

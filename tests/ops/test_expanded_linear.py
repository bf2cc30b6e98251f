"""The linear layer by dense products with an expanded weight: against a dense computation in double precision."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sparsekern import ops
from sparsekern.topology import CSC, PACKED, Topology

backward = torch.ops.sparsekern.expanded_linear_backward

# out, in, density: one panel and many, rows that end within a word, empty rows, nothing absent
SHAPES = {
    "odd": (37, 53, 0.5),
    "one row": (1, 70, 0.3),
    "one column": (70, 1, 0.4),
    "empty": (20, 30, 0.0),
    "full": (33, 40, 1.0),
    "panels": (700, 330, 0.6),
    "wide": (130, 1100, 0.9),
    "empty rows": (300, 200, 0.002),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def case(
    shape: str, dtype: torch.dtype, *leading: int, views: frozenset[str] = PACKED
) -> tuple[Topology, list[Tensor]]:
    """A pattern with slack; input, values (NaN in the slack, which nobody may read), bias, grad_output."""
    rows, cols, density = SHAPES[shape]
    nnz, generator = int(rows * cols * density), torch.Generator().manual_seed(1)
    topology = Topology.random((rows, cols), nnz, generator=generator, capacity=nnz + 3, views=views)
    values = topology.from_csr(torch.randn(nnz, generator=generator, dtype=torch.float64), fill=float("nan"))
    others = (torch.randn(*size, generator=generator) for size in ((*leading, cols), (rows,), (*leading, rows)))
    x, bias, delta = (t.to(dtype) for t in others)
    return topology, [x, values.to(dtype), bias, delta]


def run(topology: Topology, x: Tensor, values: Tensor, bias: Tensor | None, delta: Tensor) -> list[Tensor]:
    output = ops.expanded_linear(x, values, topology.index, bias)
    return [output, *backward(delta, x, values, topology.index, True, True, True)]


@pytest.mark.usefixtures("isa", "poisoned")
@pytest.mark.parametrize("views", [PACKED, CSC], ids=["packed", "csc"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("shape", SHAPES)
def test_against_dense(shape: str, dtype: torch.dtype, views: frozenset[str]) -> None:
    for leading in ((1,), (0,), (), (3,), (2, 4), (11,), (2, 9), (130,), (600,)):
        topology, operands = case(shape, dtype, *leading, views=views)
        x, values, bias, delta = (t.double() for t in operands)
        weight = torch.zeros(topology.shape, dtype=torch.float64)
        weight[topology.mask()] = topology.to_csr(values)
        flat, flat_x = delta.reshape(-1, topology.rows), x.reshape(-1, topology.cols)
        wanted = [x @ weight.t() + bias, delta @ weight, topology.gather(flat.t() @ flat_x), flat.sum(0)]
        for actual, expected in zip(run(topology, *operands), wanted, strict=True):
            assert actual.dtype == dtype
            assert actual.is_contiguous()
            scale = max(1.0, float(expected.abs().max()) if expected.numel() else 0.0)
            torch.testing.assert_close(actual.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale)


@pytest.mark.skipif(ops.extension is None, reason="PyTorch's own products have other bits for other strides")
@pytest.mark.parametrize("batch", [6, 40])
def test_operands_of_any_strides(batch: int) -> None:
    topology, (x, values, bias, delta) = case("panels", torch.float32, batch)
    wanted = run(topology, x, values, bias, delta)
    apart = [torch.stack([t, t], -1)[..., 0] for t in (x, values, bias, delta)]
    assert all(map(torch.equal, wanted, run(topology, *apart)))


@pytest.mark.skipif(ops.extension is None, reason="PyTorch's own products have other bits for other threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 3, 12, 13, 130, 600])
def test_same_bits_for_every_number_of_threads(batch: int, dtype: torch.dtype, threads: Callable[[int], None]) -> None:
    for shape in ("panels", "wide"):
        topology, operands = case(shape, dtype, batch)
        results = []
        for n in (1, 2, 3):
            threads(n)
            results.append(run(topology, *operands)[:3])
        assert all(map(torch.equal, results[0] * 2, results[1] + results[2]))


def test_a_pattern_that_is_packed_only_is_refused_by_kernels_of_columns() -> None:
    topology, (x, values, bias, _) = case("odd", torch.float32, 6)
    with pytest.raises(ValueError, match="CSC index"):
        ops.sparse_linear(x, values, topology.index, bias)


@pytest.mark.parametrize("batch", [6, 40])
def test_bits_that_do_not_fit_their_pointers(batch: int) -> None:
    topology, (x, values, bias, _) = case("odd", torch.float32, batch)
    wrong = topology.index._replace(bits=topology.index.bits | 1)
    with pytest.raises(ValueError, match="as many set bits as row_ptr"):
        ops.expanded_linear(x, values, wrong, bias)
    with pytest.raises(ValueError, match="as many set bits as row_ptr"):
        ops.bit_columns(wrong.row_ptr, wrong.bits, topology.cols, topology.capacity)

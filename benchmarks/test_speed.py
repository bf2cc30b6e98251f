"""A few cases under pytest-benchmark, to compare revisions: `python -m pytest benchmarks/test_speed.py`."""

from typing import Any

import pytest

from sparsekern.bench.linear import Linear
from sparsekern.bench.linear_peers import PEERS
from sparsekern.bench.problem import Problem

NAMES = ("dense", "sparsekern-csr", "sparsekern-tiled", "sparsekern")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("op", ["forward", "step"])
@pytest.mark.parametrize("sparsity", [0.8, 0.95])
def test_linear(benchmark: Any, name: str, op: str, sparsity: float) -> None:
    problem = Problem(Linear(1024, 1024, 128, sparsity))
    implementation = next(peer for peer in PEERS if peer.name == name).build(problem, op)
    result = benchmark(implementation.call)
    assert problem.error(op, result if isinstance(result, tuple) else (result,)) <= problem.tolerance

"""What PyTorch's users have besides: `torch.compile`, and autocast to bf16."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from sparsekern.bench import measure
from sparsekern.bench.case import Suite, cases
from sparsekern.bench.linear import Linear
from sparsekern.bench.linear_peers import PEERS
from sparsekern.bench.peer import Implementation, Peer
from sparsekern.bench.problem import Problem


def named(name: str) -> Peer:
    return next(peer for peer in PEERS if peer.name == name)


def run(*peers: Peer, sparsity: float = 0.9) -> list[dict]:
    suite = Suite(peers, lambda quick: cases([Linear(96, 64, 32, sparsity)], ("step",)), Problem)
    return measure.run("kernels", suite=suite, threads=1, budget=0.005)["rows"]


def test_a_dense_layer_under_torch_compile_is_right_and_compiles_once_for_all_sparsities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    right = partial(torch.compile, backend="aot_eager")  # inductor takes ten seconds
    monkeypatch.setattr(torch, "compile", lambda *args, **options: calls.append(args) or right(*args, **options))
    for sparsity in (0.5, 0.9):
        rows = run(named("dense"), named("dense-compiled"), sparsity=sparsity)
        assert rows[1]["ms"] > 0
        assert rows[1]["error"] < 1e-5
    assert len(calls) == 1


def test_autocast_rounds_to_bf16_and_more_is_wrong() -> None:
    off = replace(named("dense"), name="off", build=lambda p, op: scaled(named("dense").build(p, op)), tolerance=2e-2)
    peers = (named("dense"), named("dense-bf16"), named("sparsekern-bf16"), off)
    dense, narrow, ours, wrong = run(*peers)
    for row in (narrow, ours):
        assert row["ms"] > 0
        assert dense["error"] < 1e-5 < 1e-3 < row["error"] < 2e-2
    assert wrong["missing"].startswith("wrong")


def scaled(implementation: Implementation) -> Implementation:
    return Implementation(lambda: tuple(1.05 * result for result in implementation.call()), 0)

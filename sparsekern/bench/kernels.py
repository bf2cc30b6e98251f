"""`sparsekern bench kernels`: a row per operation, layer and implementation."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .cases import AnyLayer, Case, Problem, suite
from .peers import PEERS, Implementation, Peer
from .report import header
from .timing import interleave, pinned

BUDGET = 1.2  # seconds of samples per operation and layer; more where a dense product takes longer


def run(
    cases: Sequence[Case] | None = None,
    *,
    peers: Sequence[Peer] = PEERS,
    threads: int | None = None,
    quick: bool = False,
    benchmark: str = "kernels",
    budget: float = BUDGET,
    progress: Callable[[str], Any] = lambda text: None,
    save: Callable[[dict], Any] = lambda report: None,
) -> dict:
    """Measures every implementation on every case and returns the report.

    Args:
        cases: those of `suite` by default; `quick` takes its short form.
        peers: the implementations; the first is what the others are divided by.
        benchmark: name of the report.
        budget: seconds of samples per operation.
        progress: called with a line after every operation.
        save: called with the report after every case; its `complete` is False until the last.
    """
    threads = torch.get_num_threads() if threads is None else threads
    cases = suite(quick) if cases is None else cases
    report = header(benchmark, threads, peers) | {"complete": False, "rows": []}
    total, done = sum(len(case.ops) for case in cases), 0
    with pinned(threads), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse ", category=UserWarning)  # torch on its own CSR tensors
        for case in cases:
            problem = case.layer.problem()
            for op in case.ops:
                rows = measure(problem, op, peers, budget * max(1.0, min(2.5, case.layer.macs / 5e8)))
                report["rows"] += [row | {"threads": threads} for row in rows]
                done += 1
                progress(f"[{done}/{total}] {_summary(rows)}")
            report["complete"] = done == total
            save(report)
    return report


def measure(problem: Problem, op: str, peers: Sequence[Peer], budget: float) -> list[dict]:
    """The rows of one operation: a time only for an implementation whose result was right."""
    offered = [peer for peer in peers if op in peer.ops]
    built: dict[str, Implementation] = {}
    rows = {peer.name: _row(problem.layer, op, peer.name) for peer in offered}
    for peer in offered:
        row = rows[peer.name]
        if reason := peer.why_not(problem.layer.dtype):
            row["missing"] = reason
            continue
        try:
            built[peer.name] = peer.build(problem, op)
            result = built[peer.name].call()
        except (RuntimeError, NotImplementedError) as error:
            built.pop(peer.name, None)
            row["missing"] = f"failed: {str(error).splitlines()[0]}"
            continue
        row["bytes"] = built[peer.name].bytes
        row["error"] = problem.error(op, result if isinstance(result, tuple) else (result,))
        if not row["error"] <= problem.tolerance:
            row["missing"] = f"wrong: relative error {row['error']:.1e}, allowed {problem.tolerance:.0e}"
            del built[peer.name]
    timings = interleave(
        {name: implementation.call for name, implementation in built.items()}, budget=budget, watch=_matters
    )
    base = timings[peers[0].name].median if peers[0].name in timings else None
    for name, timing in timings.items():
        rows[name] |= timing.numbers(base)
    return list(rows.values())


def _matters(name: str) -> bool:
    return name == PEERS[0].name or name.startswith("sparsekern")


def _row(layer: AnyLayer, op: str, impl: str) -> dict:
    return {
        "case": f"{op} {layer.shape}",
        "impl": impl,
        "device": "cpu",
        "dtype": layer.dtype,
        "sparsity": layer.sparsity,
        "batch": layer.batch,
        "ms": None,
        "ratio_to_dense": None,
        "bytes": None,
    }


def _summary(rows: list[dict]) -> str:
    first = rows[0]
    ratios = (f"{row['impl']} {row['ratio_to_dense']:.2f}" for row in rows if row["ratio_to_dense"] is not None)
    return f"{first['case']} B={first['batch']} {first['sparsity']:.0%} {first['dtype']}: {', '.join(ratios)}"

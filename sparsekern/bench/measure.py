"""Rows of a report: every implementation on every case, its result checked before it is timed."""

import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch

from ..errors import UsageError
from .case import Case, Suite, matching
from .gpu_timing import GpuTimer
from .peer import Peer
from .problem import Checked
from .report import card, header
from .suites import SUITES
from .timing import CpuTimer, Timer, pinned, strict

Progress = Callable[[str], Any]
Save = Callable[[dict], Any]


def run(
    kind: str,
    *,
    suite: Suite | None = None,
    words: str = "",
    impls: Collection[str] | None = None,
    threads: int | None = None,
    quick: bool = False,
    budget: float | None = None,
    progress: Progress = lambda text: None,
    save: Save = lambda report: None,
) -> dict:
    """Measures a benchmark on the CPU and returns the report.

    Args:
        kind: of `SUITES["cpu"]`; or else `suite` says what is measured.
        words: only cases whose label has every one of them.
        impls: only these implementations, beside the first.
        budget: seconds of samples for a case; more where a dense product takes longer.
        progress: called with a line after every case.
        save: called with the report after every case; its `complete` is False until the last.
    """
    suite = chosen(suite or SUITES["cpu"][kind], impls)
    threads = torch.get_num_threads() if threads is None else threads
    report = header(kind, threads, suite.peers) | {"complete": False, "rows": []}
    timer = CpuTimer(suite.budget if budget is None else budget)
    with pinned(threads), _quiet():
        cases = matching(suite.cases(quick), words)
        measure(report, suite, cases, timer, torch.device("cpu"), {"threads": threads}, progress=progress, save=save)
    return report


def blank(benchmark: str, device: torch.device, quick: bool = False) -> dict[str, Any]:
    """Returns a report of a GPU without rows: machine, card, versions, and whether it is only a trial."""
    peers = {peer.name: peer for suite in SUITES["cuda"].values() for peer in suite.peers}
    machine = header(benchmark, torch.get_num_threads(), peers.values(), device)
    return {"card": card(device), **machine, "quick": quick, "rows": []}


def add_gpu_rows(
    report: dict[str, Any],
    device: torch.device,
    *,
    kinds: Sequence[str] = tuple(SUITES["cuda"]),
    words: str = "",
    impls: Collection[str] | None = None,
    tune: bool = False,
    minutes: float = float("inf"),
    progress: Progress = lambda text: None,
    save: Save = lambda report: None,
) -> bool:
    """Adds the rows of a GPU that a report lacks, saves it after each case, and tells whether it is complete.

    Args:
        report: of `blank`; its `configurations` are those of Triton kernels that were found to be the fastest.
        device: the GPU; a CPU tries this out, on kernels that are interpreted.
        tune: find the fastest configuration of every kernel that is launched, and measure with it.
        minutes: no problem is begun after.

    Raises:
        torch.AcceleratorError: the device failed. The rows of that case say so; the next call goes on behind it.
    """
    deadline, timer = time.perf_counter() + 60 * minutes, GpuTimer(device)
    with strict(), _quiet(), _tuned(report) if tune else nullcontext():
        for kind in kinds:
            suite = chosen(SUITES["cuda"][kind], impls)
            cases = matching(suite.cases(report["quick"]), words)
            extra = {"benchmark": kind}
            if not measure(report, suite, cases, timer, device, extra, deadline, progress=progress, save=save):
                return False
    return True


def chosen(suite: Suite, impls: Collection[str] | None) -> Suite:
    """Returns a suite with some of its implementations, and the first.

    Raises:
        UsageError: it has no such implementation.
    """
    if impls is None:
        return suite
    names = [peer.name for peer in suite.peers]
    if unknown := sorted({*impls} - {*names}):
        raise UsageError(f"unknown --impl {', '.join(unknown)}; known: {', '.join(names)}")
    return replace(suite, peers=tuple(peer for peer in suite.peers if peer.name in {names[0], *impls}))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch's warnings on its own CSR tensors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse ", category=UserWarning)
        yield


def _tuned(report: dict[str, Any]) -> AbstractContextManager:
    from ..ops.triton.launch import tuning

    return tuning(report.setdefault("configurations", {}))


def measure(
    report: dict,
    suite: Suite,
    cases: Sequence[Case],
    timer: Timer,
    device: torch.device,
    extra: dict[str, Any],
    deadline: float = float("inf"),
    *,
    progress: Progress,
    save: Save,
) -> bool:
    """Adds a row for every implementation on every case that the report lacks; returns False past the deadline.

    Raises:
        torch.AcceleratorError: the device failed, and is of no use to this process any more.
    """
    known = {_key(row) for row in report["rows"]}
    done = 0
    for layer, group in groupby(cases, key=lambda case: case.layer):
        if time.perf_counter() > deadline:
            return False
        torch.manual_seed(0)  # so that what is checked depends on no case before
        problem = None
        for case in group:
            done += 1
            if _key(case.columns) in known:
                continue
            known.add(_key(case.columns))
            problem = suite.problem(layer, device) if problem is None else problem
            try:
                found, failure = rows(problem, case, suite.peers, timer), None
            except torch.AcceleratorError as error:
                offered = [peer for peer in suite.peers if case.op in peer.ops and peer.offers(layer)]
                found, failure = [_row(case, peer, device) | {"missing": _line(error)} for peer in offered], error
            report["rows"] += [row | extra for row in found]
            if "complete" in report:
                report["complete"] = done == len(cases)
            save(report)
            if failure is not None:
                raise failure
            progress(f"[{done}/{len(cases)}] {case.label}: {_ratios(found)}")
    return True


def rows(problem: Checked, case: Case, peers: Sequence[Peer], timer: Timer) -> list[dict[str, Any]]:
    """Returns a row for every implementation; one that is wrong or does not run has no time but says why.

    Raises:
        torch.AcceleratorError: the device failed.
    """
    offered = [peer for peer in peers if case.op in peer.ops and peer.offers(case.layer)]
    found = {peer.name: _row(case, peer, problem.device) for peer in offered}
    calls = {}
    for peer in offered:
        row = found[peer.name]
        call = _checked(problem, case, peer, row)
        if "missing" not in row:
            calls[peer.name] = call
    timings = timer(calls, case.layer.macs) if calls else {}
    base = timings[peers[0].name].median if peers[0].name in timings else None
    for name, timing in timings.items():
        found[name] |= timing.columns(base)
    return list(found.values())


def _checked(problem: Checked, case: Case, peer: Peer, row: dict[str, Any]) -> Callable[[], Any]:
    """Builds an implementation and checks its result; the row says why it gets no number, if so."""
    if reason := peer.why_not(case.layer.dtype):
        row["missing"] = reason
        return lambda: None
    try:
        built = peer.build(problem, case.op)
        row["bytes"] = built.bytes
        built.call()  # kernels may be tuned at their first launch, which repeats them on what they write
        result = built.call()
        row["error"] = problem.error(case.op, result if isinstance(result, tuple) else (result,))
    except torch.AcceleratorError:
        raise
    # What PyTorch, CUDA and this package raise for a dtype or a size that they do not take, or for want of memory.
    # Anything else is a mistake of the benchmark.
    except (RuntimeError, ValueError) as error:
        row["missing"] = f"failed: {_line(error)}"
        return lambda: None
    except Exception as error:
        if not _is_from_triton(error):
            raise
        row["missing"] = f"failed: {type(error).__name__}: {_line(error)}"
        return lambda: None
    allowed = max(problem.tolerance, peer.tolerance)
    if not row["error"] <= allowed:
        row["missing"] = f"wrong: relative error {row['error']:.1e}, allowed {allowed:.0e}"
    return built.call


def _is_from_triton(error: Exception) -> bool:
    """Tells whether a kernel does not compile on this card, or does not fit it, without importing Triton."""
    return any(kind.__name__ == "TritonError" for kind in type(error).__mro__)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _row(case: Case, peer: Peer, device: torch.device) -> dict[str, Any]:
    columns = case.columns
    empty = {"ms": None, "ratio_to_dense": None, "bytes": None}
    return {"case": columns.pop("case"), "impl": peer.name, "device": card(device)} | columns | empty


def _key(columns: dict[str, Any]) -> tuple:
    return tuple(columns[name] for name in ("case", "dtype", "sparsity", "batch"))


def _ratios(found: list[dict]) -> str:
    return ", ".join(f"{row['impl']} {row['ratio_to_dense']:.2f}" for row in found if row["ratio_to_dense"] is not None)

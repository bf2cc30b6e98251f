"""Rows of a report, each checked before it is timed."""

import statistics
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from ..cases import has_words
from ..moments import PEERS
from ..report import card, header
from ..timing import strict
from .case import Case
from .suite import SUITE, suite
from .timing import Stopwatch


def blank(benchmark: str, device: torch.device, quick: bool = False) -> dict[str, Any]:
    """A report without rows: machine, card, versions, and whether it is only a trial."""
    machine = header(benchmark, torch.get_num_threads(), PEERS, device)
    return {"card": card(device), **machine, "quick": quick, "rows": []}


def measure(
    report: dict[str, Any],
    device: torch.device,
    *,
    kinds: Sequence[str] = tuple(SUITE),
    words: str = "",
    impls: Collection[str] | None = None,
    tune: bool = False,
    minutes: float = float("inf"),
    progress: Callable[[str], Any] = lambda text: None,
    save: Callable[[dict], Any] = lambda report: None,
) -> bool:
    """Adds the rows that the report lacks, and saves it after each case; returns whether it is complete.

    Args:
        report: of `blank`; its `configurations` are those of Triton kernels that were found to be the fastest.
        kinds: of `SUITE`.
        words: only cases whose label has every one of them.
        impls: only these implementations, beside the dense one.
        tune: find the fastest configuration of every kernel that is launched, and measure with it.
        minutes: no problem is begun after.

    Raises:
        torch.AcceleratorError: the device failed. The rows of that case say so; the next run goes on behind it.
    """
    start, watch = time.perf_counter(), Stopwatch(device)
    known = {(row["case"], row["dtype"], row["sparsity"], row["batch"]) for row in report["rows"]}
    with strict(), warnings.catch_warnings(), _tuned(report) if tune else nullcontext():
        warnings.filterwarnings("ignore", message="Sparse ", category=UserWarning)  # torch on its own CSR tensors
        for kind, make in _makers(device, kinds, report["quick"]):
            if time.perf_counter() - start > 60 * minutes:
                return False
            torch.manual_seed(0)  # so that what is checked depends on no case before
            for case in make():
                key = case.name, str(case.dtype).removeprefix("torch."), case.sparsity, case.batch
                if key in known or not has_words(case.label, words):
                    continue
                known.add(key)
                row = {"benchmark": kind, "device": report["card"]}
                case = case if impls is None else _only(case, impls)
                try:
                    found, failure = rows(case, watch), None
                except torch.AcceleratorError as error:
                    found, failure = _rows(case, {}, dict.fromkeys(case.calls, _line(error))), error
                report["rows"] += [row | measured for measured in found]
                save(report)
                if failure is not None:
                    raise failure
                progress(f"{time.perf_counter() - start:4.0f} s  {case.label}")
    return True


def _makers(device: torch.device, kinds: Sequence[str], quick: bool) -> Iterator[tuple[str, Callable[[], list[Case]]]]:
    for kind in kinds:
        yield from ((kind, make) for make in suite(kind, device, quick))


def _tuned(report: dict[str, Any]) -> AbstractContextManager:
    from ...ops.triton.launch import tuning

    return tuning(report.setdefault("configurations", {}))


def _only(case: Case, impls: Collection[str]) -> Case:
    wanted = {next(iter(case.calls)), *impls}
    calls = {name: call for name, call in case.calls.items() if name in wanted}
    return replace(case, calls=calls, missing={n: why for n, why in case.missing.items() if n in wanted})


def rows(case: Case, watch: Stopwatch) -> list[dict[str, Any]]:
    """A row for every implementation; one that is wrong or does not run has no time but says why.

    Raises:
        torch.AcceleratorError: the device failed, and is of no use to this process any more.
    """
    faults = {name: found for name, call in case.calls.items() if (found := _fault(case, call))}
    right = {name: call for name, call in case.calls.items() if name not in faults}
    return _rows(case, watch.interleave(right), faults)


def _fault(case: Case, call: Callable[[], Any]) -> str:
    """Why a call gets no number, if so."""
    try:
        call()  # kernels may be tuned at their first launch, which repeats them on what they write
        error = case.error(call())
    except torch.AcceleratorError:
        raise
    # What PyTorch, CUDA and this package raise for a dtype or a size that they do not take, or for want of memory.
    # Anything else is a mistake of the benchmark.
    except (RuntimeError, ValueError) as error:
        return f"failed: {_line(error)}"
    except Exception as error:
        if not _is_from_triton(error):
            raise
        return f"failed: {type(error).__name__}: {_line(error)}"
    return "" if error <= case.tolerance else f"wrong: relative error {error:.1e}, allowed {case.tolerance:.0e}"


def _is_from_triton(error: Exception) -> bool:
    """A kernel that does not compile on this card, or does not fit it; asked without importing Triton."""
    return any(kind.__name__ == "TritonError" for kind in type(error).__mro__)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _rows(case: Case, timed: dict[str, tuple[list[float], bool]], faults: dict[str, str]) -> list[dict[str, Any]]:
    medians = {name: statistics.median(samples) for name, (samples, _) in timed.items()}
    base = medians.get(next(iter(case.calls)))
    reasons = case.missing | faults
    found = []
    for name in [*case.calls, *case.missing]:
        row: dict[str, Any] = {
            "case": case.name,
            "impl": name,
            "dtype": str(case.dtype).removeprefix("torch."),
            "sparsity": case.sparsity,
            "batch": case.batch,
            "ms": None,
            "ratio_to_dense": None,
            "bytes": case.bytes.get(name),
        }
        if name in timed:
            samples, graph = timed[name]
            row |= {"ms": round(medians[name], 5), "min_ms": round(min(samples), 5), "graph": graph}
            row["ratio_to_dense"] = round(medians[name] / base, 4) if base else None
        if name in reasons:
            row["missing"] = reasons[name]
        found.append(row)
    return found

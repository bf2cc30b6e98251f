"""Measures the kernels of the GPU beside their peers: `make gpu-bench`, or `python -m benchmarks.gpu`.

Writes OUT/gpu-<card>-<date>.json after every case, and a table. Started again on the same day it goes on where it
stopped. A result is checked before it is timed: a wrong one gets no number.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from sparsekern.bench.report import header, write, write_text
from sparsekern.cli.text import table

from .cases import Case, cases
from .timing import Stopwatch

UNFINISHED = 3  # as `benchmarks.gpu_tests` has it
RESULTS = Path(__file__).parents[1] / "results"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="(default: benchmarks/results)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="(default cuda; cpu tries this out)")
    parser.add_argument("--case", default="", metavar="TEXT", help="only cases whose name has this text")
    parser.add_argument("--minutes", type=float, default=8.5, metavar="N", help="stop after so long (default 8.5)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try this out")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="find the fastest configuration of every kernel that these cases launch, and measure with it; the file "
        "keeps what was found and the rows that it has",
    )
    arguments = parser.parse_args(argv)
    if arguments.device != "cpu" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu tries this out")
    device = torch.device(arguments.device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    day = datetime.now(timezone.utc).date().isoformat()
    path = arguments.out / f"gpu-{re.sub(r'[^a-z0-9]+', '-', card.lower()).strip('-')}-{day}.json"
    report = {**header("gpu", torch.get_num_threads()), "card": card, "rows": []}
    if path.exists():
        earlier = json.loads(path.read_text())
        report |= {name: earlier[name] for name in ("rows", "configurations") if name in earlier}
    done = measure(report, path, device, arguments)
    write_text(path.with_suffix(".md"), f"# {card}, {day}\n\n```\n{_table(report['rows'])}\n```\n")
    print(_table(report["rows"]), path, sep="\n")
    if not done:
        print("stopped before the end; the same command goes on", file=sys.stderr)
    return 0 if done else UNFINISHED


def measure(report: dict[str, Any], path: Path, device: torch.device, arguments: argparse.Namespace) -> bool:
    """Adds the rows that the report lacks, and saves it after each case; returns whether it is complete."""
    start, watch = time.perf_counter(), Stopwatch(device)
    known = {_key(row) for row in report["rows"]}
    with _tuned(report) if arguments.tune else nullcontext():
        for make in cases(device, arguments.quick):
            if time.perf_counter() - start > 60 * arguments.minutes:
                return False
            torch.manual_seed(0)  # so that what is checked depends on no case before
            for case in make():
                key = case.name, str(case.dtype), case.sparsity, case.batch
                if arguments.case not in case.name or key in known:
                    continue
                known.add(key)
                try:
                    report["rows"] += rows(case, watch, str(report["card"]))
                except torch.AcceleratorError as error:
                    # The device computes nothing more in this process. The next one goes on behind this case.
                    report["rows"] += _rows(case, str(report["card"]), {}, dict.fromkeys(case.calls, _line(error)))
                    raise
                finally:
                    write(path, report)
                seconds = time.perf_counter() - start
                print(f"{seconds:4.0f} s  {case.name} {case.sparsity:.0%} {case.dtype} B={case.batch}")
    return True


def _tuned(report: dict[str, Any]) -> AbstractContextManager:
    from sparsekern.ops.triton.launch import tuning

    return tuning(report.setdefault("configurations", {}))


def _key(row: dict[str, Any]) -> tuple:
    return row["case"], f"torch.{row['dtype']}", row["sparsity"], row["batch"]


def rows(case: Case, watch: Stopwatch, card: str) -> list[dict[str, Any]]:
    """A row for every implementation; one that is wrong or does not run has no time.

    Raises:
        torch.AcceleratorError: the device failed, and is of no use to this process any more.
    """
    faults = {name: found for name, call in case.calls.items() if (found := _fault(case, call))}
    return _rows(case, card, watch.interleave({n: call for n, call in case.calls.items() if n not in faults}), faults)


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
        return _line(error)
    return "" if error <= case.tolerance else f"error {error:.2g}"


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _rows(
    case: Case, card: str, timed: dict[str, tuple[list[float], bool]], faults: dict[str, str]
) -> list[dict[str, Any]]:
    medians = {name: statistics.median(samples) for name, (samples, _) in timed.items()}
    base = medians.get(next(iter(case.calls)))
    return [
        {
            "case": case.name,
            "impl": name,
            "device": card,
            "dtype": str(case.dtype).removeprefix("torch."),
            "sparsity": case.sparsity,
            "batch": case.batch,
            "ms": round(medians[name], 5) if name in timed else None,
            "min_ms": round(min(timed[name][0]), 5) if name in timed else None,
            "ratio_to_dense": round(medians[name] / base, 4) if name in timed and base else None,
            "bytes": case.bytes.get(name),
            "graph": name in timed and timed[name][1],
            "fault": faults.get(name, ""),
        }
        for name in case.calls
    ]


def _table(rows: list[dict[str, Any]]) -> str:
    columns = ["case", "dtype", "sparsity", "batch", "impl", "ms", "ratio_to_dense", "fault"]
    return table([columns, *([str(row[column]) for column in columns] for row in rows)])


if __name__ == "__main__":
    sys.exit(main())

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
    parser.add_argument("--device", default="cuda", help="(default cuda; cpu tries this out)")
    parser.add_argument("--case", default="", metavar="TEXT", help="only cases whose name has this text")
    parser.add_argument("--minutes", type=float, default=8.5, metavar="N", help="stop after so long (default 8.5)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try this out")
    parser.add_argument("--tune", action="store_true", help="measure every configuration of the kernels first")
    arguments = parser.parse_args(argv)
    if arguments.device != "cpu" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu tries this out")
    device = torch.device(arguments.device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    day = datetime.now(timezone.utc).date().isoformat()
    path = arguments.out / f"gpu-{re.sub(r'[^a-z0-9]+', '-', card.lower()).strip('-')}-{day}.json"
    report = {**header("gpu", torch.get_num_threads()), "card": card, "rows": []}
    if path.exists():
        report["rows"] = json.loads(path.read_text())["rows"]
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
    if arguments.tune:
        from sparsekern.ops.triton.launch import tuning

        with tuning() as found:
            for make in cases(device, arguments.quick):
                for case in make():
                    for call in case.calls.values():
                        _attempt(call)
        report["configurations"] = found
    for make in cases(device, arguments.quick):
        if time.perf_counter() - start > 60 * arguments.minutes:
            return False
        for case in make():
            if arguments.case in case.name and (case.name, str(case.dtype), case.sparsity, case.batch) not in known:
                report["rows"] += rows(case, watch, str(report["card"]))
                write(path, report)
                print(
                    f"{time.perf_counter() - start:4.0f} s  {case.name} {case.sparsity:.0%} {case.dtype} B={case.batch}"
                )
    return True


def _key(row: dict[str, Any]) -> tuple:
    return row["case"], f"torch.{row['dtype']}", row["sparsity"], row["batch"]


def _attempt(call: Any) -> Any:
    """What a call returns, or why it cannot."""
    try:
        return call()
    except (RuntimeError, ValueError, AttributeError, NotImplementedError) as error:
        return str(error).partition("\n")[0]


def rows(case: Case, watch: Stopwatch, card: str) -> list[dict[str, Any]]:
    """A row for every implementation; one that is wrong or does not run has no time."""
    wrong = {}
    for name, call in case.calls.items():
        result = _attempt(call)
        if isinstance(result, str):
            wrong[name] = result
        elif (error := case.error(result)) > case.tolerance:
            wrong[name] = f"error {error:.2g}"
    timed = watch.interleave({name: call for name, call in case.calls.items() if name not in wrong})
    base = statistics.median(next(iter(timed.values()))[0])
    found = []
    for name in case.calls:
        samples, graph = timed.get(name, ([], False))
        found.append(
            {
                "case": case.name,
                "impl": name,
                "device": card,
                "dtype": str(case.dtype).removeprefix("torch."),
                "sparsity": case.sparsity,
                "batch": case.batch,
                "ms": round(statistics.median(samples), 5) if samples else None,
                "min_ms": round(min(samples), 5) if samples else None,
                "ratio_to_dense": round(statistics.median(samples) / base, 4) if samples else None,
                "bytes": case.bytes.get(name),
                "graph": graph,
                "fault": wrong.get(name, ""),
            }
        )
    return found


def _table(rows: list[dict[str, Any]]) -> str:
    columns = ["case", "dtype", "sparsity", "batch", "impl", "ms", "ratio_to_dense", "fault"]
    return table([columns, *([str(row[column]) for column in columns] for row in rows)])


if __name__ == "__main__":
    sys.exit(main())

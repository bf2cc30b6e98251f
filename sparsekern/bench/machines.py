"""Results of a machine lie in a folder of its own: a file for each benchmark, `kernels.json` say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..nn import crossovers, processor
from ..training.files import read_json

FAMILIES = {
    "amd-zen4-avx512": "AMD Zen 4",
    "amd-zen5-avx512": "AMD Zen 5",
    "intel-icelake-avx512": "Intel Ice Lake",
}
SCHEMA = {"benchmark": str, "cpu": str, "threads": int, "date": str, "rows": list}

Report = dict[str, Any]


def name(threads: int) -> str:
    """Returns the name of this machine's folder: its processor family, instruction set and threads."""
    return f"{family()}-{threads}t"


def family() -> str:
    """Returns the name of this processor's family if its crossovers are known, else what the system calls it."""
    here = processor.here()
    own = (name for name, table in crossovers.families().items() if table.processor.family == here.family)
    return next(own, f"{re.sub(r'[^a-z0-9]+', '-', here.name.lower()).strip('-')}-{here.isa}")


def read(folder: Path) -> dict[str, Report]:
    """Returns the reports that lie in a folder, by the names of their benchmarks.

    Raises:
        UsageError: it holds none, or a damaged one.
    """
    reports = {}
    for path in sorted(folder.glob("*.json")):
        report = read_json(path, SCHEMA)
        reports[report["benchmark"]] = report
    if not reports:
        raise UsageError(
            f"{folder} holds no results; expected files of `sparsekern bench ... --json`, for example kernels.json"
        )
    return reports


def make(folder: Path, report: Report) -> str:
    """Returns what the processor of a folder is called: "Intel Ice Lake"."""
    return FAMILIES.get(folder.resolve().name.rpartition("-")[0]) or report["cpu"]


def title(folder: Path, report: Report) -> str:
    """Returns what a machine is called: "Intel Ice Lake, 2 threads"."""
    return f"{make(folder, report)}, {report['threads']} thread{'s' * (report['threads'] > 1)}"

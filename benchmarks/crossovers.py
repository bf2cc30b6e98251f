"""Measures the table of a family of processors, by which layers choose their kernels on it:

python -m benchmarks.crossovers intel-icelake-avx512
python -m benchmarks.crossovers avx2 --isa avx2        # as on a processor without AVX-512

Writes sparsekern/nn/tables/<family>.json, a row at a time. After --seconds it stops; the same command goes on. --again
measures anew what was measured before.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

TABLES = Path(__file__).parents[1] / "sparsekern" / "nn" / "tables"
# What limits the libraries that PyTorch multiplies with; read when they are loaded.
LIMITS = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


class _Over(Exception):
    """The time is over."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.crossovers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", help="name of the table")
    parser.add_argument("--isa", choices=["avx2"], help="limit our kernels, MKL, oneDNN and PyTorch to it")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="(default 2)")
    parser.add_argument("--seconds", type=float, default=55.0, metavar="S", help="stop after so long (default 55)")
    parser.add_argument("--again", action="store_true", help="measure anew")
    arguments = parser.parse_args(argv)
    if arguments.isa:
        os.environ.update(LIMITS)

    from sparsekern.bench import calibrate
    from sparsekern.bench.report import write
    from sparsekern.ops import extension

    if arguments.isa:
        if extension is None:
            parser.error("the kernels are not compiled")
        extension._set_isa(arguments.isa)
    path = TABLES / f"{arguments.family}.json"
    report = json.loads(path.read_text()) if path.exists() and not arguments.again else None
    end = time.monotonic() + arguments.seconds

    def progress(row: str) -> None:
        print(row, flush=True)

    def save(report: dict) -> None:
        write(path, report)
        if time.monotonic() > end:
            raise _Over

    try:
        calibrate.run(threads=arguments.threads, report=report, progress=progress, save=save)
    except _Over:
        print("to be continued: the same command, without --again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

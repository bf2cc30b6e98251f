"""Measures the kernels of the GPU beside their peers: `make gpu-bench`, or `python -m benchmarks.gpu`.

Writes OUT/gpu-<card>-<date>.json after every case, and a table. Started again on the same day it goes on where it
stopped. A result is checked before it is timed: wrong results are not timed.
"""

import argparse
import json
import re
import sys
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import torch

from sparsekern.bench import markdown
from sparsekern.bench.measure import add_gpu_rows, blank
from sparsekern.bench.report import write
from sparsekern.training.files import write_text

UNFINISHED = 3  # as `benchmarks.gpu_tests` has it
RESULTS = Path(__file__).parent / "results"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="(default: benchmarks/results)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="(default cuda; cpu tries this out)")
    parser.add_argument("--case", default="", metavar="WORDS", help="only cases that have every word, 90%% say")
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
    report = blank("gpu", device, arguments.quick)
    name = f"{report['card']} {datetime.now(timezone.utc).date()}{' quick' * arguments.quick}"
    path = arguments.out / f"gpu-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    if path.exists():
        earlier = json.loads(path.read_text())
        for version in ("torch", "sparsekern", "cuda"):
            if earlier.get(version) != report.get(version):
                parser.error(f"{path} has {version} {earlier.get(version)}, not {report.get(version)}: move it away")
        report |= {name: earlier[name] for name in ("rows", "configurations") if name in earlier}
    done = add_gpu_rows(
        report,
        device,
        words=arguments.case,
        tune=arguments.tune,
        minutes=arguments.minutes,
        progress=partial(print, flush=True),
        save=partial(write, path),
    )
    text = markdown.render(report)
    write_text(path.with_suffix(".md"), text)
    print(text, path, sep="\n")
    if not done:
        print("stopped before the end; the same command goes on", file=sys.stderr)
    return 0 if done else UNFINISHED


if __name__ == "__main__":
    sys.exit(main())

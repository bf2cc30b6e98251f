"""Regenerates the committed results of this machine: `make bench`, or `python -m benchmarks.cpu [kernels memory ...]`.

Writes `benchmarks/results/cpu-<machine>-<benchmark>.json` and, of all that lie there, `cpu-<machine>.md`. Takes about
half an hour on two cores that do nothing else.
"""

import argparse
import json
import re
import sys
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks import goals
from sparsekern.bench import markdown, measure, memory, training_step
from sparsekern.bench.report import write
from sparsekern.nn import crossovers, processor
from sparsekern.training.files import write_text

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = {
    "kernels": partial(measure.run, "kernels"),
    "convolutions": partial(measure.run, "convolutions"),
    "moments": partial(measure.run, "moments"),
    "train": training_step.run,
    "memory": memory.run,
    "threshold": partial(measure.run, "threshold"),
}
GROWING = ("kernels", "convolutions", "moments", "train")  # saved after every case


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("benchmarks", nargs="*", metavar="|".join(BENCHMARKS), help="(default: all)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="small sizes, to try this out")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="(default: benchmarks/results)")
    parser.add_argument(
        "--run",
        dest="runs",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="train: also the pattern that this run of `sparsekern train` ended with",
    )
    parser.add_argument("--compiled", action="store_true", help="train: also compiled, and sparse in channels_last")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.benchmarks) - set(BENCHMARKS):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; known: {', '.join(BENCHMARKS)}")
    machine = f"cpu-{family()}-{arguments.threads}t"
    start = time.perf_counter()

    def progress(text: str) -> None:
        print(f"{time.perf_counter() - start:4.0f} s  {text}", file=sys.stderr, flush=True)

    for name in arguments.benchmarks or BENCHMARKS:
        path = arguments.out / f"{machine}-{name}.json"
        options = {"threads": arguments.threads, "quick": arguments.quick, "progress": progress}
        if name in GROWING:
            options["save"] = partial(write, path)
        if name == "train":
            options |= {"runs": arguments.runs, "compiled": arguments.compiled}
        write(path, BENCHMARKS[name](**options))
    report(arguments.out, machine)
    return 0


def family() -> str:
    """The name of this processor's family if its crossovers are committed, else what the system calls the processor."""
    here = processor.here()
    own = (name for name, table in crossovers.families().items() if table.processor.family == here.family)
    return next(own, re.sub(r"[^a-z0-9]+", "-", here.name.lower()).strip("-"))


def report(folder: Path, machine: str) -> None:
    """Writes `<machine>.md` from the JSON files of the machine, and prints how they compare with the goals."""
    files = {name: folder / f"{machine}-{name}.json" for name in BENCHMARKS}
    reports = {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}
    reached = goals.render({name: found["rows"] for name, found in reports.items()})
    parts = [f"# {name.capitalize()}\n\n{markdown.render(found)}" for name, found in reports.items()]
    write_text(folder / f"{machine}.md", "\n".join([*parts, reached]))
    print(reached)
    print(folder / f"{machine}.md")


if __name__ == "__main__":
    sys.exit(main())

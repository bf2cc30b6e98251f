"""Regenerates the committed results of this machine: `make bench`, or `python -m benchmarks.cpu [kernels memory ...]`.

Writes `benchmarks/results/<family>/<benchmark>.json`, where a family is processors of one make with one instruction set
and so many threads, and of all that lie there `tables.md`. Results of other families stay. Takes about an hour on two
cores that do nothing else.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks import goals
from sparsekern.bench import largest, machines, markdown, measure, memory, scaling, training_step
from sparsekern.bench.report import write
from sparsekern.bench.suites import SUITES
from sparsekern.training.files import write_text

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = {
    "kernels": partial(measure.run, "kernels"),
    "convolutions": partial(measure.run, "convolutions"),
    "crossovers": partial(measure.run, "crossovers"),
    "moments": partial(measure.run, "moments"),
    "train": training_step.run,
    "memory": memory.run,
    "threshold": partial(measure.run, "threshold"),
    "scaling": scaling.run,
    "largest": largest.run,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("benchmarks", nargs="*", metavar="|".join(BENCHMARKS), help="(default: all)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="small sizes, to try this out")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="(default: benchmarks/results)")
    parser.add_argument("--seconds", type=float, metavar="S", help="kernels, scaling: of samples, for each case")
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
    parser.add_argument(
        "--gib", type=float, action="append", metavar="N", help="largest: fill N GiB, repeatable (default 1 and 4)"
    )
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.benchmarks) - set(BENCHMARKS):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; known: {', '.join(BENCHMARKS)}")
    folder = arguments.out / machines.name(arguments.threads)
    start, failed = time.perf_counter(), []

    def progress(text: str) -> None:
        print(f"{time.perf_counter() - start:4.0f} s  {text}", file=sys.stderr, flush=True)

    for name in arguments.benchmarks or BENCHMARKS:
        save = partial(write, folder / f"{name}.json")
        options = {"threads": arguments.threads, "quick": arguments.quick, "progress": progress, "save": save}
        if name == "train":
            options |= {"runs": arguments.runs, "compiled": arguments.compiled}
        if name == "largest" and arguments.gib:
            options["gib"] = arguments.gib
        if arguments.seconds is not None and (name in SUITES["cpu"] or name == "scaling"):
            options["seconds" if name == "scaling" else "budget"] = arguments.seconds
        try:
            save(BENCHMARKS[name](**options))
        except RuntimeError as error:  # so much memory is not free, say; the rows so far are saved
            failed.append(f"{name}: {error}")
    report(folder)
    print(*failed, sep="\n", end="\n" * bool(failed), file=sys.stderr)
    return bool(failed)


def report(folder: Path) -> None:
    """Writes `tables.md` from the results in a folder, and prints how they compare with the goals."""
    found = machines.read(folder)
    reports = {name: found[name] for name in BENCHMARKS if name in found}
    reached = goals.render({name: found["rows"] for name, found in reports.items()})
    parts = [f"# {name.capitalize()}\n\n{markdown.render(found)}" for name, found in reports.items()]
    write_text(folder / "tables.md", "\n".join([*parts, reached]))
    print(reached)
    print(folder / "tables.md")


if __name__ == "__main__":
    sys.exit(main())

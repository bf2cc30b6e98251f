"""Trains the runs of an experiment and writes what they found."""

import argparse
import sys
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.papers import measure, results
from benchmarks.papers.experiment import Experiment, Flags, Trial
from benchmarks.papers.experiments import EXPERIMENTS
from sparsekern.cli.options import natural, numbers, positive
from sparsekern.data import load
from sparsekern.errors import RunError, UsageError
from sparsekern.settings import PLAIN
from sparsekern.training import configure, run_folder
from sparsekern.training.grid import Cell, check, run_all

RESULTS = Path(__file__).parents[1] / "results"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.papers",
        description="Trains the runs of an experiment, each in a process and a folder of its own, and writes "
        "results.json, table.md and figure.png. Started again it goes on where it stopped.",
    )
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--data", metavar="NAME", help="another data set than the experiment's own")
    parser.add_argument("--data-dir", metavar="PATH", help="folder of the data set")
    parser.add_argument("--download", action="store_true", help="fetch the data set into --data-dir")
    parser.add_argument("--epochs", type=positive, metavar="N", help="of every run; milestones are scaled")
    parser.add_argument("--seeds", type=numbers(natural), metavar="N,N")
    parser.add_argument("--jobs", type=natural, default=1, metavar="N", help="runs at a time (default 1); 0 only tells")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of each run (default 1)")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1")
    parser.add_argument("--only", type=numbers(str), default=["*"], metavar="GLOB", help="runs by name, 'width-*'")
    parser.add_argument(
        "--runs",
        action="append",
        type=Path,
        metavar="DIR",
        help="where the runs lie; repeatable, new ones in the first",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="(default: benchmarks/results/paper-NAME)")
    parser.add_argument(
        "--measure-only",
        action="store_true",
        help="measure a step of every kind of run by short trainings that take turns, on a machine that does nothing "
        "else, into times.json of --out; tables written afterwards show it",
    )
    parser.add_argument("--note", default="", metavar="TEXT", help="what readers of the table should know")
    arguments = parser.parse_args(argv)
    name, experiment = arguments.experiment, EXPERIMENTS[arguments.experiment]
    places = arguments.runs or [Path("runs") / f"paper-{name}"]
    seeds = experiment.seeds if arguments.seeds is None else arguments.seeds
    runs = [run for seed in seeds for run in experiment.runs(seed)]
    chosen = [run for run in runs if any(fnmatch(run.name, glob) for glob in arguments.only)]
    out = arguments.out or RESULTS / f"paper-{name}"
    try:
        cells = [cell(experiment, run, places, arguments) for run in chosen]
        if arguments.measure_only:
            kinds = {run.cell: cell.config for run, cell in zip(chosen, cells, strict=True) if run.measured}
            measure.measure(kinds, out / "times.json")
            return 0
        failed = train(cells, arguments) if arguments.jobs else []
        print("\n" + results.write(out, experiment, {run: folder(run, places) for run in runs}, arguments.note))
        print(out)
        if failed:
            raise RunError(f"{len(failed)} of {len(chosen)} runs failed: " + ", ".join(f["log"] for f in failed))
    except (UsageError, RunError) as error:
        print(f"benchmarks.papers: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


def cell(experiment: Experiment, run: Trial, places: list[Path], arguments: argparse.Namespace) -> Cell:
    """Returns a run with its flags; the command line goes first where all runs may follow it."""
    flags: Flags = {**PLAIN, "data": arguments.data or experiment.data, **experiment.common, **run.flags}
    flags |= {"threads": arguments.threads, "seed": run.seed, "device": arguments.device}
    if (data_dir := arguments.data_dir or experiment.data_dir) is not None:
        flags["data_dir"] = data_dir
    if arguments.epochs is not None:
        if "epochs" not in experiment.common:
            raise UsageError("the runs of this experiment have no number of epochs in common")
        factor = arguments.epochs / experiment.common["epochs"]
        flags["epochs"] = max(1, round(factor * flags["epochs"]))
        if "milestones" in flags:
            flags["milestones"] = [max(1, round(factor * epoch)) for epoch in flags["milestones"]]
    return Cell(flags, configure(**flags), folder(run, places))


def train(cells: list[Cell], arguments: argparse.Namespace) -> list[dict]:
    """Trains those that are not finished; returns the failures."""
    for config in {cell.config["data"]: cell.config for cell in cells}.values():
        load(config, arguments.download)  # missing data is one message now instead of a failure of every run
    for cell in cells:
        check(cell)
    return run_all(cells, arguments.jobs)


def folder(run: Trial, places: list[Path]) -> Path:
    """Returns where a run lies already, or shall."""
    found = [place / run.name for place in places if run_folder.holds_run(place / run.name)]
    return found[0] if found else places[0] / run.name


if __name__ == "__main__":
    sys.exit(main())

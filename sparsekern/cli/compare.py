"""`sparsekern compare`: a grid of runs, each a process and a folder of its own."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import methods
from ..data import load
from ..errors import RunError, UsageError, choose
from ..training import configure, emerges, known_options
from ..training.config import BACKENDS
from ..training.files import folder as make_folder
from ..training.files import locked
from ..training.grid import Cell, check, run_all
from ..training.loop import require_packages
from . import recipes, results
from .options import add_arguments, fraction, numbers, positive, seeds

DESCRIPTION = """\
Trains every method at every sparsity with every seed, each run in a process and a folder of its own, then writes
results.json, table.md (mean, standard deviation, ranking) and figure.png. Started again with the same flags it goes on
where it stopped; a run that fails is reported with its log, the others go on.

  sparsekern compare --methods dense,random,rigl,gse_grabo --sparsities .9,.95 --seeds 0,1,2 --out runs/grid
  sparsekern compare --methods rigl --sparsities .98 --seeds 0,1,2 --backends sparse,masked --out runs/twins

dense, and a method whose sparsity emerges, is trained once per seed. --set KEY=VALUE goes to every method that has the
option, --set METHOD.KEY=VALUE to one.
"""


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="train a grid of methods, sparsities and seeds",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    group = parser.add_argument_group("grid")
    group.add_argument("--methods", type=numbers(str), required=True, metavar="A,B")
    group.add_argument("--sparsities", type=numbers(fraction), default=[0.9], metavar="S,S", help="(default 0.9)")
    group.add_argument("--seeds", type=numbers(seeds), default=[0, 1, 2], metavar="N,N", help="(default 0,1,2)")
    group.add_argument("--backends", type=numbers(str), default=["auto"], metavar="B,B", help="(default auto)")
    group.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs at a time (default 1)")
    group.add_argument("--note", default="", metavar="TEXT", help="what readers of the table should know of the data")
    group.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the comparison")
    add_arguments(parser, grid=True)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    given = vars(arguments).copy()
    grid = {name: list(dict.fromkeys(given.pop(name))) for name in ("methods", "sparsities", "seeds", "backends")}
    jobs, note, out = given.pop("jobs"), given.pop("note"), given.pop("out")
    for name in ("run", "command"):
        given.pop(name)
    if empty := [name for name, values in grid.items() if not values]:
        raise UsageError(f"--{empty[0]} is empty")
    require_packages()
    again = ("data_dir", *({"threads"} & given.keys()))  # a run that is resumed keeps its threads otherwise
    given.setdefault("threads", max(1, (os.cpu_count() or 1) // jobs))
    download = given.pop("download", False)
    given = recipes.apply(given, grid["methods"])
    options = given.pop("set", [])
    cells = _cells(grid, given, options, out)
    for cell in cells:
        cell.again = again
    load(cells[0].config, download)  # missing data is one message now instead of a failure of every run
    started = time.perf_counter()
    with locked(make_folder(out), results.FILES):
        for cell in cells:
            check(cell)
        try:
            failed = run_all(cells, jobs)
        except KeyboardInterrupt:
            print(f"stopped; the same command goes on where it was ({out})", file=sys.stderr)
            raise
        text = _results(out, cells, grid, failed, {"set": dict(options), "jobs": jobs, "note": note})
    print("\n" + text)
    print(f"{out / 'table.md'}, {out / 'figure.png'}, {out / 'results.json'} in {time.perf_counter() - started:.0f} s")
    if failed:
        raise RunError(f"{len(failed)} of {len(cells)} runs failed: " + ", ".join(f["log"] for f in failed))
    return 0


def _results(out: Path, cells: list[Cell], grid: dict, failed: list[dict], facts: dict) -> str:
    varied = {"method", "sparsity", "seed", "backend", "set", "horizon", "data_dir"}
    settings = {key: value for key, value in cells[0].config.items() if key not in varied}
    return results.write(out, settings | facts, grid, [cell.folder for cell in cells], failed)


def _cells(grid: dict, given: dict, options: list, out: Path) -> list[Cell]:
    """The runs, seed by seed so that an interrupted comparison has whole seeds; raises on any wrong flag."""
    for method in grid["methods"]:
        choose("method", method, methods.names())
    for backend in grid["backends"]:
        choose("backend", backend, BACKENDS)
    used: set[str] = set()
    cells = []
    for seed in grid["seeds"]:
        for method in grid["methods"]:
            own = list(_own(options, method, used))
            dense = method == "dense"
            for sparsity in [None] if dense or emerges(method) else grid["sparsities"]:
                for backend in ["auto"] if dense else grid["backends"]:
                    flags = given | {"method": method, "seed": seed, "backend": backend, "set": own}
                    if sparsity is not None:
                        flags["sparsity"] = sparsity
                    parts = [method, "" if sparsity is None else f"{sparsity:g}", "" if dense else backend]
                    name = "-".join([*filter(None, parts), f"seed{seed}"])
                    cells.append(Cell(flags, configure(**flags), out / name))
    if unused := [key for key, _ in options if key not in used]:
        raise UsageError(f"--set {unused[0]}: none of {', '.join(grid['methods'])} has this option")
    return cells


def _own(options: list, method: str, used: set[str]) -> Iterator[tuple[str, Any]]:
    known = known_options(method)
    for key, value in options:
        owner, _, name = key.rpartition(".")
        if owner == method or (not owner and name in known):
            used.add(key)
            yield name, value

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
from ..settings import BACKENDS
from ..text import file_name
from ..training import configure, emerges, known_options, run_folder
from ..training.files import folder as make_folder
from ..training.files import locked
from ..training.grid import Cell, check, run_all
from ..training.loop import require_packages
from . import recipes, results


def run(arguments: argparse.Namespace) -> int:
    given = vars(arguments).copy()
    grid = {name: list(dict.fromkeys(given.pop(name))) for name in ("methods", "sparsities", "seeds", "backends")}
    grid["methods"] = list(dict.fromkeys(_named(grid["methods"])))
    jobs, note, out = given.pop("jobs"), given.pop("note"), given.pop("out")
    if run_folder.holds_run(out):
        raise UsageError(f"{out} holds a run, not a comparison; choose another --out")
    results.check_free(out)
    if empty := [name for name, values in grid.items() if not values]:
        raise UsageError(f"--{empty[0]} is empty")
    require_packages()
    again = ("data_dir", *({"threads"} & given.keys()))  # a run that is resumed keeps its threads otherwise
    download = given.pop("download", False)
    given = recipes.apply(given, grid["methods"])
    given.setdefault("threads", max(1, (os.cpu_count() or 1) // jobs))
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
    written = ", ".join(str(out / name) for name in reversed(results.FILES) if (out / name).exists())
    print(f"{written} in {time.perf_counter() - started:.0f} s")
    if failed:
        raise RunError(f"{len(failed)} of {len(cells)} runs failed: " + ", ".join(f["log"] for f in failed))
    return 0


def _named(given: list[str]) -> Iterator[str]:
    """Yields the methods that are meant: `all` are those that `sparsekern methods` lists."""
    for name in given:
        yield from methods.names() if name == "all" else [name]


def _results(out: Path, cells: list[Cell], grid: dict, failed: list[dict], facts: dict) -> str:
    varied = {"method", "sparsity", "seed", "backend", "set", "horizon", "data_dir"}
    settings = {key: value for key, value in cells[0].config.items() if key not in varied}
    return results.write(out, settings | facts, grid, [cell.folder for cell in cells], failed)


def _cells(grid: dict, given: dict, options: list, out: Path) -> list[Cell]:
    """The runs, seed by seed so that an interrupted comparison has whole seeds; raises on any wrong flag."""
    for method in grid["methods"]:
        methods.get(method)
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
                    name = file_name("-".join([*filter(None, parts), f"seed{seed}"]))
                    cells.append(Cell(flags, configure(**flags), out / name))
    for key, _ in options:
        if key not in used:
            _refuse(key, grid["methods"])
    return cells


def _refuse(key: str, given: list[str]) -> None:
    """Raises the error of an option that none of the methods has."""
    owner, _, name = key.rpartition(".")
    if owner and owner not in given:
        raise UsageError(f"--set {key}: {owner} is not among --methods {','.join(given)}")
    own = [owner] if owner else given
    choose(f"option of {', '.join(own)}", name, sorted({each for method in own for each in known_options(method)}))


def _own(options: list, method: str, used: set[str]) -> Iterator[tuple[str, Any]]:
    known = known_options(method)
    for key, value in options:
        owner, _, name = key.rpartition(".")
        if owner == method or (not owner and name in known):
            used.add(key)
            yield name, value

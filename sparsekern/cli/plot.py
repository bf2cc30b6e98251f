"""`sparsekern plot`: pictures of a run folder or of a comparison."""

import argparse

from ..errors import UsageError
from ..training import figures, run_folder
from ..training.files import read_json, read_lines
from ..training.schema import check
from . import results


def run(arguments: argparse.Namespace) -> int:
    folder = arguments.folder
    if (folder / "results.json").is_file():
        found = read_json(folder / "results.json", {"table": list})
        if not found["table"]:
            raise UsageError(f"{folder} has no finished run: nothing to draw")
        check(found, results.SHAPE, str(folder / "results.json"))
        path = figures.draw_comparison(folder, found)
    elif (folder / run_folder.CONFIG).is_file():
        history = read_lines(folder / run_folder.METRICS, run_folder.EPOCH)
        if not history:
            raise UsageError(f"{folder} has not finished an epoch yet: nothing to draw")
        path = figures.draw_run(folder / run_folder.REPORT, run_folder.read_config(folder), history)
    else:
        raise UsageError(f"{folder} holds neither a run ({run_folder.CONFIG}) nor a comparison (results.json)")
    print(path)
    return 0

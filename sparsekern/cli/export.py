"""`sparsekern export`: the network of a run as a file for other programs."""

import argparse
import warnings

from .. import export
from ..errors import UsageError
from ..export.files import FORMATS, check_free
from ..training import run_folder
from ..training.trained import trained


def run(arguments: argparse.Namespace) -> int:
    folder, format = arguments.folder, arguments.format
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    path = arguments.out or folder / FORMATS[format]
    if path.parent.resolve() == folder.resolve() and path.name in run_folder.FILES:
        raise UsageError(f"{path} belongs to the run itself: choose another file")
    check_free(path, arguments.overwrite)
    run = trained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, of what is in beta
        export.save(run.model, path, format, example=run.example, overwrite=arguments.overwrite)
    print(f"{path}: {format}, {path.stat().st_size / 2**20:.2f} MiB, after epoch {run.epochs}")
    return 0

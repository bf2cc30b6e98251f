"""`sparsekern train`: trains one network and leaves a folder that can be resumed, plotted and compared."""

import argparse
import sys
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

from ..data import load
from ..errors import UsageError
from ..text import file_name
from ..training import Run, configure, finish, restore, run_folder, train_epochs
from ..training.files import folder as make_folder
from ..training.loggers import opened
from ..training.loop import require_packages
from . import recipes
from .progress import Progress


def run(arguments: argparse.Namespace) -> int:
    given = vars(arguments).copy()
    out, resume = given.pop("out", None), given.pop("resume", None)
    overwrite, download = given.pop("overwrite", False), given.pop("download", False)
    if given.get("recipe") == "list":
        print(recipes.listing())
        return 0
    require_packages()
    if resume is not None:
        if overwrite:
            raise UsageError("--overwrite and --resume contradict each other")
        for name in ("recipe", "config"):
            if name in given:
                raise UsageError(f"--{name} begins a run; the one to --resume has its settings already")
        return _resume(resume, given, download)
    config = configure(**recipes.apply(given))
    _check_free(out, overwrite)
    session = Run(config, load(config, download))
    session.check_batches()
    folder = _new_folder(config) if out is None else make_folder(out)
    with run_folder.owned(folder):
        _check_free(folder, overwrite)  # another process may have been faster
        run_folder.clear(folder)
        return train(session, folder)


def _check_free(folder: Path | None, overwrite: bool) -> None:
    if folder is not None and run_folder.holds_run(folder) and not overwrite:
        raise UsageError(f"{folder} already holds a run; --resume it, --overwrite it, or choose another --out")


def _resume(folder: Path, given: dict, download: bool) -> int:
    run_folder.check_resumable(folder)
    with run_folder.owned(folder):
        session = restore(folder, download, **given)
        epochs = session.config["epochs"]
        if session.epoch == epochs and run_folder.complete(folder, epochs):
            print(f"{folder} is finished: {epochs} epochs. Prolong it with --epochs N.")
            return 0
        return train(session, folder)


def train(session: Run, folder: Path) -> int:
    """Trains to the last epoch of the configuration, telling how it goes."""
    config = session.config
    total = config["epochs"] * session.steps_per_epoch
    print(f"{describe(config)}\n{folder}", flush=True)
    try:
        bar = Progress(total, session.step, config["method"])
        with bar as progress, opened(config["log"], folder, config, session.step) as draw:

            def told() -> None:
                progress.line(_line(session))
                draw(session.history[-1])
                progress.check()

            train_epochs(session, folder, progress.step, progress.check, told)
    except KeyboardInterrupt:
        print(
            f"stopped after epoch {session.epoch}; continue with: sparsekern train --resume {folder}", file=sys.stderr
        )
        raise
    summary = finish(session, folder)
    print(
        f"\n{session.optimizer.report()}\n\n{session.memory}\n\n"
        f"test accuracy {summary['test_accuracy']:.2%}, {summary['nnz']:,} of {summary['prunable']:,} weights, "
        f"{summary['seconds_per_step'] * 1e3:.2f} ms per step\n{folder / run_folder.REPORT}"
    )
    return 0


def _new_folder(config: dict) -> Path:
    """Makes a folder in runs/ that nobody has, not even a process that looks for one at the same moment."""
    parts = [config["data"], config["model"], config["method"]]
    parts += [f"{config['sparsity']:g}"] if config["sparsity"] else []
    base = make_folder(Path("runs")) / file_name("-".join([*parts, f"seed{config['seed']}"]))
    for path in chain([base], (base.with_name(f"{base.name}-{i}") for i in count(2))):
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("no number is free")


def describe(config: dict) -> str:
    """Returns a line on a run, for the terminal."""
    sparse = f" at {config['sparsity']:.2%} sparsity" if config["sparsity"] else ""
    sparse += "" if config["method"] == "dense" else f", backend {config['backend']}"
    return (
        f"{config['method']}{sparse}: {config['model']} on {config['data']}, {config['epochs']} epochs, "
        f"{config['optimizer']}, seed {config['seed']}, {config['threads']} threads"
    )


def _line(session: Run) -> str:
    now = session.history[-1]
    return (
        f"epoch {now['epoch']:{len(str(session.config['epochs']))}}/{session.config['epochs']}"
        f"  train loss {now['train_loss']:.4f}  test loss {now['test_loss']:.4f}  accuracy {now['test_accuracy']:7.2%}"
        f"  sparsity {now['sparsity']:.2%}  {now['seconds_per_step'] * 1e3:.2f} ms/step"
    )

"""`sparsekern train`: trains one network and leaves a folder that can be resumed, plotted and compared."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count
from pathlib import Path

from ..errors import UsageError
from ..sparsity import parallel
from ..text import counted, file_name
from ..training import Run, configure, finish, ranks, restore, run_folder, train_epochs
from ..training.files import folder as make_folder
from ..training.loggers import opened
from ..training.loop import prepared, require_packages
from . import recipes
from .progress import Progress


def run(arguments: argparse.Namespace) -> int:
    given = vars(arguments).copy()
    if "resume" not in given:
        given = recipes.with_flags(given, out=Path, download=bool, overwrite=bool)
    out, resume = given.pop("out", None), given.pop("resume", None)
    overwrite, download = given.pop("overwrite", False), given.pop("download", False)
    if given.get("recipe") == "list":
        print(recipes.listing())
        return 0
    require_packages()
    with ranks.joined():
        if resume is not None:
            return _resume(resume, given, download, overwrite)
        return _begin(out, given, download, overwrite)


def _begin(out: Path | None, given: dict, download: bool, overwrite: bool) -> int:
    with ranks.together():
        config = configure(**recipes.apply(given))
        if out is not None:
            run_folder.check_free(out, overwrite)
    session = prepared(config, download)

    def emptied(folder: Path) -> None:
        run_folder.check_free(folder, overwrite)  # another process may have been faster
        run_folder.clear(folder)

    with _owned(lambda: _new_folder(config) if out is None else make_folder(out), emptied) as folder:
        return train(session, folder)


@contextmanager
def _owned(find: Callable[[], Path], prepare: Callable[[Path], None] = lambda folder: None) -> Iterator[Path]:
    """Keeps the folder that `find` gives for rank 0, which prepares it, as long as the context lasts."""
    with ExitStack() as stack:

        def make() -> Path:
            folder = find()
            stack.enter_context(run_folder.owned(folder))
            prepare(folder)
            return folder

        yield ranks.from_first(make)


def _resume(folder: Path, given: dict, download: bool, overwrite: bool) -> int:
    def checked() -> Path:
        if overwrite:
            raise UsageError("--overwrite and --resume contradict each other")
        for name in ("recipe", "config"):
            if name in given:
                raise UsageError(f"--{name} begins a run; the one to --resume has its settings already")
        run_folder.check_resumable(folder)
        return folder

    with _owned(checked):
        session = restore(folder, download, **given)
        epochs = session.config["epochs"]
        if session.epoch == epochs and ranks.from_first(lambda: run_folder.complete(folder, epochs)):
            print(f"{folder} is finished: {counted(epochs, 'epoch')}. Prolong it with --epochs N.")
            return 0
        return train(session, folder)


def train(session: Run, folder: Path) -> int:
    """Trains to the last epoch of the configuration, telling how it goes."""
    config = session.config
    total = config["epochs"] * session.steps_per_epoch
    print(f"{describe(config)}\n{folder}", flush=True)
    again = f"torchrun [...] -m sparsekern train --resume {folder}"
    try:
        with (
            Progress(total, session.step, config["method"], bar=ranks.first()) as progress,
            ranks.watched(f"continue with: {again}", progress.check),
            opened(config["log"] if ranks.first() else [], folder, config, session.history) as draw,
        ):

            def told() -> None:
                progress.line(_line(session))
                draw(session.history[-1])
                progress.check()

            train_epochs(session, folder, progress.step, progress.check, told)
    except KeyboardInterrupt:
        if ranks.first():
            again = again if parallel.ranks() > 1 else f"sparsekern train --resume {folder}"
            print(f"stopped after epoch {session.epoch}; continue with: {again}", file=sys.stderr)
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
    on = f" on each of {parallel.ranks()} ranks" if parallel.ranks() > 1 else ""
    return (
        f"{config['method']}{sparse}: {config['model']} on {config['data']}, {counted(config['epochs'], 'epoch')}, "
        f"{config['optimizer']}, seed {config['seed']}, {config['threads']} threads{on}"
    )


def _line(session: Run) -> str:
    now = session.history[-1]
    bits = f" ({now['test_bits_per_byte']:.3f} bits per byte)" if "test_bits_per_byte" in now else ""
    return (
        f"epoch {now['epoch']:{len(str(session.config['epochs']))}}/{session.config['epochs']}"
        f"  train loss {now['train_loss']:.4f}  test loss {now['test_loss']:.4f}{bits}"
        f"  accuracy {now['test_accuracy']:7.2%}"
        f"  sparsity {now['sparsity']:.2%}  {now['seconds_per_step'] * 1e3:.2f} ms/step"
    )

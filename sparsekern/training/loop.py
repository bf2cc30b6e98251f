"""Trains a run to its last epoch, with a folder that always holds what goes on from there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data import load
from ..errors import UsageError, require
from . import config, figures, ranks, run_folder
from .run import Run
from .summary import epoch_metrics, summarise


def _nothing(*_: Any) -> None:
    pass


def train(run: Run, folder: Path) -> dict:
    """Trains to the last epoch of the configuration and returns the summary, the content of `summary.json`.

    Args:
        run: new, or from `restore`.
        folder: exists, and belongs to this process (`run_folder.owned`) where others might write to it. Of several
            ranks the first one alone writes.

    Raises:
        RunError: the loss is not finite, or a file cannot be written.
        UsageError: safetensors or matplotlib are missing.
    """
    train_epochs(run, folder)
    return finish(run, folder)


def train_epochs(
    run: Run,
    folder: Path,
    on_step: Callable[[], None] = _nothing,
    on_test_batch: Callable[[], None] = _nothing,
    on_epoch: Callable[[], None] = _nothing,
) -> None:
    """Trains to the last epoch, with a checkpoint before the first and after each.

    Args:
        run, folder: as in `train`.
        on_step, on_test_batch, on_epoch: called after each step, test batch and epoch.

    What a callback raises (KeyboardInterrupt, say) ends the training; `restore` goes on from the last checkpoint.
    """
    require_packages()
    _save(run, folder)
    while run.epoch < run.config["epochs"]:
        loss = run.train_epoch(on_step)
        run.history.append(epoch_metrics(run, loss, *run.evaluate(on_test_batch)))
        _save(run, folder)
        on_epoch()


def _save(run: Run, folder: Path) -> None:
    with ranks.together():
        if ranks.first():
            run_folder.save(folder, run.state_dict())


def finish(run: Run, folder: Path) -> dict:
    """Writes the weights, the picture and, last, the summary of a trained run; returns the summary."""
    summary = summarise(run)
    with ranks.together():
        if ranks.first():
            run_folder.save_weights(folder, run.model)
            figures.draw_run(folder / run_folder.REPORT, run.config, run.history)
            run_folder.save_summary(folder, summary)
    return summary


def require_packages() -> None:
    """Raises a `UsageError` unless the packages that write a run's files are installed."""
    for package in ("safetensors.torch", "matplotlib"):
        require(package)


def restore(folder: Path, download: bool = False, **given: Any) -> Run:
    """Returns the run in a folder as its last checkpoint has it: the other files are copies of what that holds.

    Args:
        folder: of a run, with `checkpoint.pt` in it.
        download: fetch the data set if it is missing.
        given: settings to change, of `config.RESUMABLE`.

    Raises:
        UsageError: there is no run, it is damaged or finished beyond `epochs`, or other settings are given.
    """
    state = ranks.from_first(lambda: run_folder.load(folder))
    with ranks.together():
        settings = config.resume(state["config"], state["epoch"], **given)
        try:
            config.check(settings)
        except UsageError as error:
            raise UsageError(f"{folder / run_folder.CHECKPOINT}: {error}") from error
    run = prepared(settings, download)
    with ranks.together():
        run.load_state_dict(state)
    return run


def prepared(settings: dict, download: bool = False) -> Run:
    """Returns a new run of these settings, with its data.

    Raises:
        UsageError: the data is missing or damaged, or settings, model and data do not fit together.
    """
    data = ranks.in_turn(lambda leads: load(settings, download and leads))
    with ranks.together():
        run = Run(settings, data)
        run.check_batches()
    return run

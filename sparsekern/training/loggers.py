"""Loggers that draw a run while it trains: TensorBoard, and Weights & Biases."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from os import environ
from pathlib import Path
from typing import Any, Protocol

from ..errors import RunError, first_line, require
from . import files

LAYER = ("sparsity", "flips", "iou_first")  # what is drawn of every layer
WANDB_ID = "wandb-id.txt"


class Logger(Protocol):
    """Draws numbers over the steps of a run.

    Args:
        folder: of the run.
        config: its settings.
        step: up to which the run has come. What was drawn beyond it, by a process that was killed, say, is void.
    """

    def __init__(self, folder: Path, config: dict, step: int) -> None: ...

    def add(self, numbers: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Writes event files into the folder of the run: `tensorboard --logdir runs` shows them."""

    PACKAGES = ("tensorboard", "torch.utils.tensorboard")

    def __init__(self, folder: Path, config: dict, step: int) -> None:
        writers = require("torch.utils.tensorboard", "tensorboard")
        self.writer = writers.SummaryWriter(str(folder), purge_step=step + 1)

    def add(self, numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """Draws a run at W&B, in the project `$WANDB_PROJECT` or `sparsekern`; `WANDB_MODE=offline` keeps it here. A run
    that is resumed goes on there, too: its folder holds the identifier."""

    PACKAGES = ("wandb",)

    def __init__(self, folder: Path, config: dict, step: int) -> None:
        wandb = require("wandb", "wandb")
        note = folder / WANDB_ID
        if step == 0 or not note.is_file():
            files.write_text(note, wandb.util.generate_id())
        self.run = wandb.init(
            project=environ.get("WANDB_PROJECT", "sparsekern"),
            name=folder.name,
            dir=str(folder),
            id=note.read_text(),
            resume="allow",
            config=config,
        )

    def add(self, numbers: dict[str, float], step: int) -> None:
        self.run.log(numbers, step=step)

    def close(self) -> None:
        self.run.finish()


LOGGERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def check(names: list[str]) -> None:
    """Raises a `UsageError` that tells what to install unless the packages of these loggers are there."""
    for name in names:
        for package in LOGGERS[name].PACKAGES:
            require(package, name)


@contextmanager
def opened(names: list[str], folder: Path, config: dict, step: int) -> Iterator[Callable[[dict], None]]:
    """Opens loggers for as long as the context lasts; gives the function that draws an epoch of `metrics.jsonl`.

    Raises:
        RunError: what a logger writes cannot be written.
    """
    with ExitStack() as stack:
        loggers: list[Logger] = []
        for name in dict.fromkeys(names):
            with _told(folder):
                loggers.append(LOGGERS[name](folder, config, step))
            stack.callback(loggers[-1].close)

        def draw(epoch: dict) -> None:
            for logger in loggers:
                with _told(folder):
                    logger.add(numbers(epoch), epoch["step"])

        yield draw


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or first_line(error)}") from error


def numbers(epoch: dict) -> dict[str, float]:
    """Returns what is drawn of an epoch: its numbers, and some of every layer as `sparsity/NAME`."""
    drawn: dict[str, float] = {
        key: value for key, value in epoch.items() if isinstance(value, int | float) and key != "step"
    }
    for layer in epoch["layers"]:
        found = {f"{key}/{layer['name']}": layer.get(key) for key in LAYER}
        drawn |= {key: value for key, value in found.items() if isinstance(value, int | float)}
    return drawn

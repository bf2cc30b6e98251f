"""Loggers that draw a run while it trains: TensorBoard, and Weights & Biases."""

import secrets
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

    drawn: int  # the step up to which there is nothing left to draw

    def __init__(self, folder: Path, config: dict, step: int) -> None: ...

    def add(self, numbers: dict[str, float], step: int) -> None: ...

    def close(self, error: type[BaseException] | None, *_: object) -> None:
        """Takes what ended the run, as `__exit__` does."""


class TensorBoard:
    """Writes event files into the folder of the run: `tensorboard --logdir runs` shows them."""

    PACKAGES = ("tensorboard", "torch.utils.tensorboard")

    def __init__(self, folder: Path, config: dict, step: int) -> None:
        writers = require("torch.utils.tensorboard", "tensorboard")
        # The last epoch is drawn again: a process may have been killed between its checkpoint and its event.
        self.drawn = step - 1 if any(folder.glob("events.out.tfevents.*")) else 0
        self.writer = writers.SummaryWriter(str(folder), purge_step=step)

    def add(self, numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, *_: object) -> None:
        self.writer.close()


class WeightsAndBiases:
    """Draws a run at W&B, in the project `$WANDB_PROJECT` or `sparsekern`; `WANDB_MODE=offline` keeps it here. A run
    that is resumed goes on there, too: its folder holds the identifier. Offline nobody knows what was drawn before, so
    every part of a resumed run holds all epochs: whichever `wandb sync` sends last is complete."""

    PACKAGES = ("wandb",)

    def __init__(self, folder: Path, config: dict, step: int) -> None:
        wandb = require("wandb", "wandb")
        note = folder / WANDB_ID
        if step == 0 or not note.is_file():
            files.write_text(note, secrets.token_hex(4))
        try:
            self.run = wandb.init(
                project=environ.get("WANDB_PROJECT", "sparsekern"),
                name=folder.name,
                dir=str(folder),
                id=note.read_text(),
                resume="allow",
                config=config,
            )
        except wandb.Error as error:  # no account, no network
            raise RunError(f"W&B: {first_line(error)}") from error
        self.drawn = self.run.step - 1  # which tells the first step that it takes

    def add(self, numbers: dict[str, float], step: int) -> None:
        self.run.log(numbers, step=step, commit=True)

    def close(self, error: type[BaseException] | None, *_: object) -> None:
        stopped = error is not None and issubclass(error, KeyboardInterrupt)
        self.run.finish(exit_code=255 if stopped else int(error is not None))  # 255: W&B's own number for Ctrl-C


LOGGERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def check(names: list[str]) -> None:
    """Raises a `UsageError` that tells what to install unless the packages of these loggers are there."""
    for name in names:
        for package in LOGGERS[name].PACKAGES:
            require(package, name)


@contextmanager
def opened(names: list[str], folder: Path, config: dict, history: list[dict]) -> Iterator[Callable[[dict], None]]:
    """Opens loggers for as long as the context lasts; gives the function that draws an epoch of `metrics.jsonl`. The
    epochs of `history` that a logger has not drawn yet are drawn at once.

    Raises:
        RunError: what a logger writes cannot be written.
    """
    with ExitStack() as stack:
        loggers: list[Logger] = []
        for name in dict.fromkeys(names):
            with _told(folder):
                logger = LOGGERS[name](folder, config, history[-1]["step"] if history else 0)
                stack.push(logger.close)
                loggers.append(logger)
                for epoch in history:
                    if epoch["step"] > logger.drawn:
                        logger.add(numbers(epoch), epoch["step"])

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

"""The network of a run, without its data and its optimizer."""

import math
import warnings
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from .. import methods, models
from ..errors import UsageError, first_line
from ..nn import PatternLayer
from ..nn.conversion.saved import patterned
from ..topology import Topology
from . import run_folder


class Trained(NamedTuple):
    """The network of a run.

    Attributes:
        model: in evaluation mode, on the CPU.
        shape: of one input.
        example: two inputs of zeros.
        epochs: for how many it was trained.
    """

    model: nn.Module
    shape: tuple[int, ...]
    example: Tensor
    epochs: int


def trained(folder: Path) -> Trained:
    """Returns the network of the run in a folder as its last checkpoint has it.

    Raises:
        UsageError: there is no run, or it is damaged.
    """
    state = run_folder.load(folder)
    config, data = state["config"], state["data"]
    shape = tuple(data["shape"])
    steps = math.ceil(data["train"] / config["batch_size"])
    counts = {"total_steps": config["horizon"] * steps, "steps_per_epoch": steps}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how it trains
            method = methods.get(config["method"])(sparsity=config["sparsity"], **counts, **config["set"])
        storage = method.resolved_storage

        def masked(layer: nn.Module, pattern: Topology) -> PatternLayer:
            return storage.convert(layer, pattern, "auto")

        model = models.build(config["model"], shape, data["classes"], config["width"])
        model = patterned(model, state["model"], masked)
        model.load_state_dict(state["model"])
    except UsageError:
        raise
    except Exception as error:  # what does not fit raises whatever it leads to
        path = folder / run_folder.CHECKPOINT
        raise UsageError(f"{path} is of another model than its configuration: {first_line(error)}") from error
    return Trained(model.eval(), shape, models.example(config["model"], shape, 2), state["epoch"])

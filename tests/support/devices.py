"""Where the tests run: on the CPU and, if there is one, on a GPU."""

from typing import Any

import torch
from support.patterns import Sample
from torch import Tensor

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def moved(argument: Any, device: str) -> Any:
    """The tensors of nested lists and tuples, there and with the same strides."""
    if isinstance(argument, list | tuple):
        return type(argument)(moved(item, device) for item in argument)
    if not isinstance(argument, Tensor) or argument.device.type == device:
        return argument
    elements = argument.untyped_storage().nbytes() // argument.element_size()
    storage = argument.as_strided((elements,), (1,), 0).to(device)
    return storage.as_strided(argument.shape, argument.stride(), argument.storage_offset())


def moved_sample(sample: Sample, device: str) -> Sample:
    """Its arguments there; the pattern, of which the expected results are made, stays."""
    return Sample(sample.name, moved(sample.args, device), sample.pattern)

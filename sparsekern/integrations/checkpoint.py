"""Checkpoints in the format of `torch.distributed.checkpoint`, from which any number of ranks goes on.

`dcp.load` fills the tensors that it is given, but how many nonzeros a layer has, the checkpoint alone knows. So the
tensors are made by its list of contents.

Examples:
    >>> from sparsekern.integrations import checkpoint
    >>> model = sk.sparsify(model, method)
    >>> optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    >>> checkpoint.save("runs/step-1000", model, optimizer)  # on all ranks
    >>> checkpoint.load("runs/step-1000", model, optimizer)  # into a model after sparsify, of any pattern
"""

import io
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from ..sparsity import Sparsifier
from ..sparsity.model.wrappers import bare

MODEL, OPTIMIZER = "model.", "sparsifier"


def save(folder: str | Path, model: nn.Module, optimizer: Sparsifier | None = None) -> None:
    """Writes a model and its Sparsifier into a folder that all ranks see. Call it on all of them.

    Every tensor of the model is an entry, `model.NAME`, in which other programs find it; layers hold `values`,
    `row_ptr` and `col` of their nonzeros. The state of the Sparsifier is one entry, written by one rank.
    """
    state: dict[str, Any] = {MODEL + name: value for name, value in bare(model).state_dict().items()}
    if optimizer is not None:
        state[OPTIMIZER] = io.BytesIO()
        torch.save(optimizer.state_dict(), state[OPTIMIZER])
    dcp.save(state, checkpoint_id=folder)


def load(folder: str | Path, model: nn.Module, optimizer: Sparsifier | None = None) -> None:
    """Restores what `save` wrote, on as many ranks as there are now. Call it on all of them.

    Raises:
        ValueError: the checkpoint has no state of a Sparsifier, and one is to be restored.
    """
    contents = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    if optimizer is not None and OPTIMIZER not in contents:
        raise ValueError(f"{folder} holds a model, but no state of a Sparsifier: expected the entry {OPTIMIZER}")
    state = {name: _empty(entry) for name, entry in contents.items() if name.startswith(MODEL)}
    if optimizer is not None:
        state[OPTIMIZER] = None
    dcp.load(state, checkpoint_id=folder)
    bare(model).load_state_dict({name.removeprefix(MODEL): state[name] for name in state if name.startswith(MODEL)})
    if optimizer is not None:
        state[OPTIMIZER].seek(0)
        optimizer.load_state_dict(torch.load(state[OPTIMIZER], weights_only=True))


def _empty(entry: Any) -> Any:
    """Returns a tensor to load an entry into; None for one that is no tensor."""
    return torch.empty(entry.size, dtype=entry.properties.dtype) if hasattr(entry, "size") else None

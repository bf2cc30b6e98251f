"""Checkpoints in the format of `torch.distributed.checkpoint`, from which any number of ranks goes on.

`dcp.load` fills the tensors that it is given, but how many nonzeros a layer has, the checkpoint alone knows. So the
tensors are made by its list of contents. Of what is sharded (`fully_shard`) every rank writes and reads its part.

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
from torch import Tensor, nn

from ..shards import is_sharded
from ..sparsity import Sparsifier
from ..sparsity.model.fully_sharded import make_room, reshard, sharders
from ..sparsity.model.wrappers import bare

MODEL, OPTIMIZER = "model.", "sparsifier"
SHARD = f"{OPTIMIZER}."  # a sharded tensor of the Sparsifier's state is an entry of its own, which stands for it there


def save(folder: str | Path, model: nn.Module, optimizer: Sparsifier | None = None) -> None:
    """Writes a model and its Sparsifier into a folder that all ranks see. Call it on all of them.

    Every tensor of the model is an entry, `model.NAME`, in which other programs find it; layers hold `values`,
    `row_ptr` and `col` of their nonzeros. The state of the Sparsifier is one entry, written by one rank; what is
    sharded in it has entries of its own.
    """
    reshard(sharders(model))
    state: dict[str, Any] = {MODEL + name: value for name, value in bare(model).state_dict().items()}
    if optimizer is not None:
        rest = _apart(optimizer.state_dict(), SHARD, state)
        state[OPTIMIZER] = io.BytesIO()
        torch.save(rest, state[OPTIMIZER])
    dcp.save(state, checkpoint_id=folder)


def load(folder: str | Path, model: nn.Module, optimizer: Sparsifier | None = None) -> None:
    """Restores what `save` wrote, on as many ranks as there are now. Call it on all of them. The model may be sharded,
    whether that which was written was or not.

    Raises:
        ValueError: the checkpoint has no state of a Sparsifier, and one is to be restored.
    """
    contents = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    if optimizer is not None and OPTIMIZER not in contents:
        raise ValueError(f"{folder} holds a model, but no state of a Sparsifier: expected the entry {OPTIMIZER}")
    reshard(sharders(model))
    sizes = {name.removeprefix(MODEL): entry.size for name, entry in contents.items() if hasattr(entry, "size")}
    make_room(bare(model), sizes)
    held = dict(bare(model).named_parameters())
    state = {name: _empty(entry, held.get(name[len(MODEL) :])) for name, entry in contents.items() if MODEL in name[:6]}
    dcp.load(state, checkpoint_id=folder)
    bare(model).load_state_dict({name.removeprefix(MODEL): value for name, value in state.items()})
    if optimizer is not None:
        like = next((parameter for parameter in held.values() if is_sharded(parameter)), None)
        state = {name: _empty(entry, like) for name, entry in contents.items() if name.startswith(SHARD)}
        state[OPTIMIZER] = None
        dcp.load(state, checkpoint_id=folder)
        state[OPTIMIZER].seek(0)
        optimizer.load_state_dict(_together(torch.load(state[OPTIMIZER], map_location="cpu", weights_only=True), state))


def _apart(value: Any, name: str, tensors: dict[str, Any]) -> Any:
    """Returns plain values with the names of the sharded tensors in them, which go to `tensors`."""
    if isinstance(value, Tensor) and is_sharded(value):
        tensors[name] = value
        return name
    if isinstance(value, dict):
        return {key: _apart(part, f"{name}.{key}", tensors) for key, part in value.items()}
    return [_apart(part, f"{name}.{i}", tensors) for i, part in enumerate(value)] if isinstance(value, list) else value


def _together(value: Any, tensors: dict[str, Any]) -> Any:
    """Undoes `_apart`."""
    if isinstance(value, str):
        return tensors.get(value, value)
    if isinstance(value, dict):
        return {key: _together(part, tensors) for key, part in value.items()}
    return [_together(part, tensors) for part in value] if isinstance(value, list) else value


def _empty(entry: Any, like: Tensor | None) -> Any:
    """Returns a tensor to load an entry into, sharded if `like` is; None for an entry that is no tensor."""
    if not hasattr(entry, "size"):
        return None
    if like is None or not is_sharded(like):
        return torch.empty(entry.size, dtype=entry.properties.dtype)
    from torch.distributed.tensor import empty

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return empty(entry.size, dtype=entry.properties.dtype, device_mesh=mesh, placements=placements)

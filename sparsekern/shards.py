"""Sharded tensors: of which a rank holds some rows only, as `fully_shard` leaves Parameters (`DTensor`).

What needs all of such a tensor gathers it, uses it, and drops it. All ranks do so at the same time.
"""

import sys

from torch import Tensor

# What errors say where a state does not fit into a sharded layer.
LOAD = "load it by sparsekern.integrations.checkpoint.load, or before fully_shard"


def is_sharded(tensor: Tensor) -> bool:
    """Returns whether a tensor is a `DTensor`. Does not import that class, which takes a second."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(tensor, tensors.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Returns all of a sharded tensor, which all ranks ask for together; any other tensor as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """Returns the memory that a tensor has on this rank. Call it without gradients being recorded."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def sharded_as(tensor: Tensor, like: Tensor) -> Tensor:
    """Returns a tensor sharded as `like` is, in memory of its own; itself if `like` is not sharded. Nothing is sent:
    every rank has all of `tensor`."""
    if not is_sharded(like) or is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    part = distribute_tensor(tensor.detach(), mesh, placements, src_data_rank=None)
    return part.clone()  # otherwise a view, which would keep all of the tensor


def put(target: Tensor, values: Tensor) -> None:
    """Writes to a tensor, sharded or not, the values of a whole one. Call it without gradients being recorded."""
    if target is not values:
        local(target).copy_(local(sharded_as(values, target)))


def class_as(kind: type, like: type) -> type:
    """Returns the class that `fully_shard` gives a module of class `kind`, if `like` is such a class; else `kind`."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not issubclass(like, fsdp.FSDPModule):
        return kind
    return type(f"FSDP{kind.__name__}", (fsdp.FSDPModule, kind), {"__deepcopy__": like.__deepcopy__})  # type: ignore


def nbytes(tensor: Tensor) -> int:
    """Returns the bytes that a tensor takes on this rank."""
    return local(tensor.detach()).nbytes

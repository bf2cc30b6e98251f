"""Makes data-parallel ranks agree: patterns are chosen from the same numbers on every rank."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


def ranks() -> int:
    """Returns the number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Returns the number of this rank; 0 if there is only one."""
    return dist.get_rank() if ranks() > 1 else 0


# ---- tensors, of the same shape on all ranks


def total(tensor: Tensor) -> Tensor:
    """Returns the sum over all ranks; `tensor` itself if there is only one."""
    if ranks() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def mean(tensor: Tensor) -> Tensor:
    """Returns the mean over all ranks; `tensor` itself if there is only one."""
    return total(tensor) / ranks() if ranks() > 1 else tensor


def count(number: int, device: torch.device) -> int:
    """Returns the sum of a number over all ranks, which talk by this device."""
    return int(total(torch.tensor(number, device=device))) if ranks() > 1 else number


def of_first(tensor: Tensor) -> Tensor:
    """Returns the tensor of rank 0; `tensor` itself if there is only one."""
    if ranks() > 1:
        tensor = tensor.clone()
        dist.broadcast(tensor, 0)
    return tensor


def agree(numbers: Tensor) -> bool:
    """Returns whether all ranks have the same int64 numbers."""
    if ranks() == 1:
        return True
    bounds = torch.stack([numbers, -numbers])
    dist.all_reduce(bounds, dist.ReduceOp.MAX)
    return torch.equal(bounds[0], -bounds[1])


# ---- plain values, by whatever device the ranks talk


def gathered(value: Value) -> list[Value]:
    """Returns the values of all ranks, in their order."""
    found: list[Any] = [value] * ranks()
    if ranks() > 1:
        dist.all_gather_object(found, value)
    return found


def shared(value: Value) -> Value:
    """Returns the value of rank 0."""
    held = [value]
    if ranks() > 1:
        dist.broadcast_object_list(held, 0)
    return held[0]

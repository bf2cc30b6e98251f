"""Makes data-parallel ranks agree: patterns are chosen from the same numbers on every rank."""

import torch
import torch.distributed as dist
from torch import Tensor


def ranks() -> int:
    """Returns the number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Returns the number of this rank; 0 if there is only one."""
    return dist.get_rank() if ranks() > 1 else 0


def total(tensor: Tensor) -> Tensor:
    """Returns the sum over all ranks; `tensor` itself if there is only one."""
    if ranks() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def mean(tensor: Tensor) -> Tensor:
    """Returns the mean over all ranks; `tensor` itself if there is only one."""
    return total(tensor) / ranks() if ranks() > 1 else tensor


def common_seed(seed: int) -> int:
    """Returns the seed of rank 0."""
    return int(of_first(torch.tensor([seed]))) if ranks() > 1 else seed


def of_first(tensor: Tensor) -> Tensor:
    """Returns the tensor of rank 0, which has the same shape on all ranks; `tensor` itself if there is only one."""
    if ranks() > 1:
        tensor = tensor.clone()
        dist.broadcast(tensor, 0)
    return tensor

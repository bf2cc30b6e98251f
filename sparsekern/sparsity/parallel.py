"""Agreement between data-parallel ranks: what patterns are chosen from is the same on each of them."""

import torch
import torch.distributed as dist
from torch import Tensor


def ranks() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this rank; 0 on one."""
    return dist.get_rank() if ranks() > 1 else 0


def total(tensor: Tensor) -> Tensor:
    """The sum over all ranks; `tensor` itself on one."""
    if ranks() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def mean(tensor: Tensor) -> Tensor:
    """The mean over all ranks; `tensor` itself on one."""
    return total(tensor) / ranks() if ranks() > 1 else tensor


def common_seed(seed: int) -> int:
    """The seed of rank 0."""
    return int(of_first(torch.tensor([seed]))) if ranks() > 1 else seed


def of_first(tensor: Tensor) -> Tensor:
    """The tensor of rank 0, which has the same shape on all; `tensor` itself on one."""
    if ranks() > 1:
        tensor = tensor.clone()
        dist.broadcast(tensor, 0)
    return tensor

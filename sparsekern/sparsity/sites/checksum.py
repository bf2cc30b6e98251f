"""A checksum of a pattern, by which a saved state is compared with the model that it is loaded for."""

import torch
from torch import Tensor

from ...topology import Topology

CHUNK = 1 << 20  # positions that are looked at together


def checksum(topology: Topology) -> int:
    """Returns a number that another pattern of the same shape hardly has, whatever the capacity and the views."""
    columns, total = topology.col[: topology.nnz], _mixed(topology.row_ptr.long()).sum()
    for start in range(0, len(columns), CHUNK):
        part = columns[start : start + CHUNK].long()
        place = torch.arange(start, start + len(part), device=part.device) << 32
        total += _mixed(part.add_(place)).sum()
    return int(total)


def _mixed(numbers: Tensor) -> Tensor:
    numbers = numbers * 0x2545F4914F6CDD1D  # it wraps around
    return numbers ^ (numbers >> 29)

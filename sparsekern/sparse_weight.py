"""A weight on a sparsity pattern."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .topology import Topology


@dataclass(frozen=True, eq=False)
class SparseWeight:
    """A weight on a pattern: a value, not a module.

    Args:
        values: `[capacity]` of a floating dtype, in the order of `topology`, slack zero.
        topology: the pattern.

    Raises:
        ValueError: `values` has another shape.

    Examples:
        >>> weight = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
        >>> SparseWeight.from_dense(weight, weight != 0).values
        tensor([2., 3.])
    """

    values: Tensor
    topology: Topology

    def __post_init__(self) -> None:
        if self.values.shape != (self.topology.capacity,):
            raise ValueError(
                f"values must have shape ({self.topology.capacity},), the topology's capacity, "
                f"got {tuple(self.values.shape)}"
            )

    @classmethod
    def from_dense(cls, weight: Tensor, mask: Tensor) -> SparseWeight:
        """Returns the entries of a dense `weight` where `mask`, bool of its shape, is True.

        Raises:
            ValueError: the shapes differ.
        """
        if mask.shape != weight.shape:
            raise ValueError(f"mask must have the weight's shape {tuple(weight.shape)}, got {tuple(mask.shape)}")
        topology = Topology.from_mask(mask)
        return cls(topology.gather(weight), topology)

    def to_dense(self) -> Tensor:
        """Returns the weight as a dense tensor of `topology.shape`, zeros in place; differentiable in `values`."""
        return self.topology.dense(self.values)

    def to_sparse_csr(self) -> Tensor:
        """Returns the weight, viewed as a matrix `[rows, cols]`, as a CSR tensor of PyTorch with an int32 index of its
        own; differentiable in `values`."""
        topology = self.topology
        columns = topology.col[: topology.nnz].clone()
        values, size = topology.to_csr(self.values), (topology.rows, topology.cols)
        return torch.sparse_csr_tensor(topology.row_ptr.clone(), columns, values, size)

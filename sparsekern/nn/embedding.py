"""Embeddings with a pattern: PyTorch looks up the expanded weight, whose time and memory a call takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.shapes import accumulate_dtype
from ..ops.straight_through import gradient_and_moment, weight_gradient
from ..ops.torch_products import Lookup, absolute_sums
from ..topology import Topology
from .expanded import ExpandedProduct
from .masked import MaskedLayer
from .probe import Probe
from .product import uninitialized
from .sparse import SparseLayer
from .weight_storage import draw


class EmbeddingProduct(ExpandedProduct):
    """The constructor and the product of embeddings with a pattern. A row is the vector of an entry."""

    DENSE = nn.Embedding
    SETTINGS = ("num_embeddings", "embedding_dim", "padding_idx", "scale_grad_by_freq")
    BATCHED = 1

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    scale_grad_by_freq: bool
    operation: Lookup

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        scale_grad_by_freq: bool = False,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        sparsity: float | None = None,
        topology: Topology | None = None,
        backend: str = "auto",
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        if bias:
            raise ValueError("an embedding has no bias")
        settings = {
            "num_embeddings": num_embeddings,
            "embedding_dim": embedding_dim,
            "padding_idx": padding_idx,
            "scale_grad_by_freq": scale_grad_by_freq,
        }
        shape = (num_embeddings, embedding_dim)
        super().__init__(settings, shape, False, device, dtype, sparsity, topology, backend, generator, **options)
        self.operation = Lookup(-1 if padding_idx is None else padding_idx, scale_grad_by_freq)

    @staticmethod
    def refuses(layer: Any) -> str | None:
        if layer.max_norm is not None:
            return "an embedding that renormalises its weight (max_norm)"
        return "an embedding with sparse gradients" if layer.sparse else None

    @classmethod
    def new_dense(cls, settings: dict[str, Any], bias: bool, **factory: Any) -> nn.Module:
        return uninitialized(nn.Embedding, **settings, **factory)

    def dense_product(self, input: Tensor, weight: Tensor) -> Tensor:
        return F.embedding(input, weight, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)

    def multiplications_per_weight(self, input: Tensor, output: Tensor) -> int:
        return 0  # nothing is multiplied

    def new_probe(self) -> EmbeddingProbe:
        return EmbeddingProbe(self.weight_shape, self.operation)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.pattern_repr()}"


class EmbeddingProbe(Probe):
    """h are indices `[*]`, delta `[*, width]`. The weight is multiplied from the left by one-hot vectors, so that its
    rows are what enters and its columns what leaves."""

    def __init__(self, weight_shape: tuple[int, ...], lookup: Lookup) -> None:
        super().__init__(weight_shape)
        self.operation = lookup

    def _rows(self, h: Tensor, delta: Tensor) -> Tensor:
        return self._counts(h, torch.ones_like(h, dtype=accumulate_dtype(delta.dtype)))

    def _cols(self, h: Tensor, delta: Tensor) -> Tensor:
        return absolute_sums(delta.flatten(0, -2))

    def _counts(self, h: Tensor, weights: Tensor) -> Tensor:
        counts = weights.new_zeros(self.weight_shape[0]).index_add_(0, h.flatten(), weights.flatten())
        if self.operation.padding_idx >= 0:
            counts[self.operation.padding_idx] = 0
        return counts

    def _signed(self, h: Tensor, delta: Tensor, signs: Any) -> tuple[Tensor, Tensor]:
        delta = delta.flatten(0, -2).to(accumulate_dtype(delta.dtype))
        xi = signs(len(delta)).to(delta)
        return self._counts(h, xi), xi @ delta

    def _dense(self, h: Tensor, delta: Tensor) -> Tensor:
        return weight_gradient(delta.to(accumulate_dtype(delta.dtype)), h, self.weight_shape, self.operation)

    def _moment(self, h: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        return gradient_and_moment(delta, h, self.weight_shape, self.operation)


class SparseEmbedding(EmbeddingProduct, SparseLayer):
    """Embedding that holds its nonzeros only; a call expands the whole weight.

    The constructor is that of `nn.Embedding`, without `max_norm` and `sparse`, plus exactly one of `sparsity` and
    `topology`, of the shape `[num_embeddings, embedding_dim]`. Attributes, files and errors are those of a
    `SparseLinear` without a bias.

    Shapes: input int32 or int64 `[*]`, output `[*, embedding_dim]`.
    """

    def reset_weight(self, generator: torch.Generator | None) -> None:
        """Draws weights as the dense twin does."""
        draw(self.values, nn.init.normal_, generator)
        self.write_weight(_without_padding(self))


class MaskedEmbedding(EmbeddingProduct, MaskedLayer):
    """Embedding with a dense master weight and a mask; a call makes the masked weight.

    Constructor and shapes are those of a `SparseEmbedding`; attributes, files and errors those of a `MaskedLinear`
    without a bias.
    """

    SPARSE = SparseEmbedding

    def reset_weight(self, generator: torch.Generator | None) -> None:
        """Draws weights as the dense twin does."""
        draw(self.master, nn.init.normal_, generator)
        if self.padding_idx is not None:
            self.master[self.padding_idx] = 0


def _without_padding(layer: SparseEmbedding) -> Tensor:
    weight = layer.dense_weight().clone()
    if layer.padding_idx is not None:
        weight[layer.padding_idx] = 0
    return weight

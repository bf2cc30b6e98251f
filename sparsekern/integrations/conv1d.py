"""transformers' `Conv1D`, the linear layer of GPT-2, whose weight lies the other way round: `[in, out]`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..nn.linear import LinearProduct
from ..nn.masked import MaskedLayer
from ..nn.sparse import SparseLayer
from ..nn.weight_storage import draw


class Conv1DProduct(LinearProduct):
    """The constructor and the conversion of `Conv1D` layers with a pattern, which multiply as linear layers do.

    Their pattern, nonzeros and master weight are `[out, in]`; `layer.weight` is `[in, out]`, as that of the dense twin.
    """

    DENSE = Conv1D
    SETTINGS = ("nf", "nx")
    TRANSPOSED = True

    def __init__(
        self,
        nf: int,
        nx: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nx, nf, bias, device, dtype, **options)

    @property
    def nf(self) -> int:
        return self.out_features

    @property
    def nx(self) -> int:
        return self.in_features

    @classmethod
    def new_dense(cls, settings: dict[str, Any], bias: bool, **factory: Any) -> nn.Module:
        with torch.device("meta"):
            dense = Conv1D(**settings)
        dense = dense.to_empty(device=factory["device"])
        return dense if factory.get("dtype") is None else dense.to(factory["dtype"])

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        super().reset_parameters(generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class SparseConv1D(Conv1DProduct, SparseLayer):
    """A `Conv1D` with a sparse weight of which only the nonzeros exist.

    The constructor is that of `Conv1D` plus exactly one of `sparsity` and `topology`, of the shape `[nf, nx]`. The rest
    is as in `SparseLinear`.
    """


class MaskedConv1D(Conv1DProduct, MaskedLayer):
    """A `Conv1D` with a dense master weight `[nf, nx]` and a sparse mask, as in `MaskedLinear`."""

    SPARSE = SparseConv1D

    def reset_weight(self, generator: torch.Generator | None) -> None:
        draw(self.master, partial(nn.init.normal_, std=0.02), generator)

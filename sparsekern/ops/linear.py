"""Linear layers with a sparse weight."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .schema import TILE

_ops = torch.ops.sparsekern


def sparse_linear(
    input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None = None, out_features: int | None = None
) -> Tensor:
    """`input @ W.T + bias`; absent weights are neither stored nor multiplied, here and in the gradients.

    Differentiable in `input`, `values` and `bias`; under autocast it computes in the autocast dtype, as
    `torch.nn.functional.linear` does.

    Args:
        input: `[*, cols]`.
        values: `[capacity]`, dtype of `input`; the weight in the order of the topology.
        index: `Topology.index`, contiguous. A `Topology` has looked at its pattern; here columns are followed as they
            are, and only pointers are looked at.
        bias: `[rows]`, dtype of `input`. Operands may have any strides.
        out_features: rows of the weight, if not to be read from `index`.

    Returns:
        `[*, rows]`, dtype of `input`; sums are kept in fp32 or wider.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other.
    """
    input, values, bias = _autocast(input, values, bias)
    out_features = _checked(input, values, index, bias, out_features)
    if index[3].shape != index[1].shape and input.device.type == "cpu":
        raise ValueError('index must hold the walk by columns: take it from a Topology with views={"columns"}')
    return _ops.sparse_linear(input, values, index, bias, out_features)


def expanded_linear(
    input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None = None, out_features: int | None = None
) -> Tensor:
    """`sparse_linear` by dense products with row panels (64 MiB at most) of the expanded weight: for weights that are
    hardly sparse. The same arguments, result and errors."""
    input, values, bias = _autocast(input, values, bias)
    return _ops.expanded_linear(input, values, index, bias, _checked(input, values, index, bias, out_features))


def _autocast(input: Tensor, values: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    device = input.device.type
    if device == "meta" or not torch.is_autocast_enabled(device) or input.dtype == torch.float64:
        return input, values, bias
    dtype = torch.get_autocast_dtype(device)
    return input.to(dtype), values.to(dtype), None if bias is None else bias.to(dtype)


def masked_linear(
    input: Tensor, weight: Tensor, index: list[Tensor], bias: Tensor | None = None, *, active: bool = False
) -> Tensor:
    """`input @ (W * mask).T + bias` with a dense W and the mask as bits; on a GPU without making W * mask.

    Differentiable in `input`, `weight` and `bias`. Autocast is that of `sparse_linear`.

    Args:
        input: `[*, cols]`.
        weight: `[rows, cols]`, dtype of `input`.
        index: `Topology.index` with the view "bits".
        bias: `[rows]`, dtype of `input`.
        active: whether the gradient of `weight` is zero off the mask; otherwise it is that of the masked weight, at
            every entry (straight-through).

    Returns:
        `[*, rows]`, dtype of `input`; sums are kept in fp32 or wider.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other; an index without bits.
    """
    input, weight, bias = _autocast(input, weight, bias)
    _checked(input, weight, index, bias, None, masked=True)
    return _ops.masked_linear(input, weight, index, bias, active)


def check_operand(values: Tensor, index: list[Tensor], shape: Sequence[int] | None) -> None:
    """Whether `values` are those of the index, or, given its `shape`, a dense weight whose mask the index has as bits.

    Raises:
        ValueError: they are not.
    """
    if shape is None:
        if values.shape != index[1].shape:
            raise ValueError(f"values must have the shape {tuple(index[1].shape)} of col, got {tuple(values.shape)}")
        return
    if tuple(values.shape) != tuple(shape):
        raise ValueError(f"weight must have the shape {tuple(shape)}, got {tuple(values.shape)}")
    words = (index[2].shape[0] - 1 + TILE - 1) // TILE
    if index[7].shape != (index[0].shape[0] - 1, words):
        raise ValueError('index must hold the pattern as bits: take it from a Topology with views={"bits"}')


def _checked(
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    bias: Tensor | None,
    out_features: int | None,
    masked: bool = False,
) -> int:
    """The number of rows, once everything fits. Looks at metadata only: it is called in every forward pass."""
    if len(index) != 8:
        raise ValueError(f"index must hold the 8 tensors of Topology.index, got {len(index)}")
    rows, cols = index[0].shape[0] - 1, index[2].shape[0] - 1
    if out_features is not None and out_features != rows:
        raise ValueError(f"index describes {rows} rows, but out_features is {out_features}")
    if input.layout != torch.strided:
        raise ValueError(f"input must be a dense tensor, got layout {input.layout}")
    if input.dim() == 0 or input.shape[-1] != cols:
        raise ValueError(f"input must have {cols} features in its last dimension, got shape {tuple(input.shape)}")
    check_operand(values, index, (rows, cols) if masked else None)
    if values.dtype != input.dtype:
        raise ValueError(
            f"{'weight' if masked else 'values'} must have the input's dtype {input.dtype}, got {values.dtype}"
        )
    if bias is not None and (bias.shape != (rows,) or bias.dtype != input.dtype):
        raise ValueError(f"bias must be {input.dtype} ({rows},), got {bias.dtype} {tuple(bias.shape)}")
    if not input.device == values.device == index[0].device:
        raise ValueError(
            f"input, values and index must be on one device, got {input.device}, {values.device}, {index[0].device}"
        )
    return rows

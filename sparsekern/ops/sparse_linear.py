"""Linear layers with a sparse weight (SpMM): `sparse_linear`, and `expanded_linear` for little sparsity."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .columns import with_columns
from .expand import collect_panel, collect_reference, expand_reference, panel, row_panels
from .index import Index
from .library import define
from .operands import autocast, check_linear
from .shapes import accumulate_dtype, flat
from .straight_through import straight_product

_ops = torch.ops.sparsekern


def sparse_linear(
    input: Tensor, values: Tensor, index: Sequence[Tensor], bias: Tensor | None = None, out_features: int | None = None
) -> Tensor:
    """Computes `input @ W.T + bias` (SpMM); absent weights are neither stored nor multiplied, here and in the
    gradients.

    Differentiable in `input`, `values` and `bias`; under autocast it computes in the autocast dtype, as
    `torch.nn.functional.linear` does.

    Args:
        input: `[*, cols]`.
        values: `[capacity]`, dtype of `input`; the weight in the order of the topology. Or a dense weight
            `[rows, cols]`: its entries at the pattern are multiplied, and it gets its gradient at every entry
            (straight-through).
        index: `Topology.index`, contiguous. A `Topology` has looked at its pattern; here columns are followed as they
            are, and only pointers are looked at.
        bias: `[rows]`, dtype of `input`. Operands may have any strides.
        out_features: rows of the weight, if not to be read from `index`.

    Returns:
        `[*, rows]`, dtype of `input`; sums are kept in fp32 or wider.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other.

    Examples:
        >>> topology = sk.Topology.random((512, 256), nnz=1000)
        >>> y = sk.ops.sparse_linear(torch.randn(8, 256), torch.randn(1000), topology.index)  # [8, 512]
    """
    index = Index.of(index)
    input, values, bias = autocast(input, values, bias)
    rows = _checked(input, values, index, bias, out_features)
    if index.t_row.shape != index.col.shape and not len(index.compact) and input.device.type == "cpu":
        raise ValueError('index must hold the CSC index or a compact one: take it from a Topology with views={"csc"}')
    if values.dim() == 2:
        return straight_product(_ops.sparse_linear.default, input, values, index, bias)
    return _ops.sparse_linear.default(input, values, list(index), bias, rows)


def expanded_linear(
    input: Tensor, values: Tensor, index: Sequence[Tensor], bias: Tensor | None = None, out_features: int | None = None
) -> Tensor:
    """Computes `sparse_linear` by dense products with panels of the expanded weight, for weights that are hardly
    sparse. Arguments, result and errors are the same; the index may hold a bitmask in the place of columns, and is
    expanded from it faster; a compact index is decoded first. Where no weight is absent, `values` is the matrix, and
    nothing is expanded."""
    index = Index.of(index)
    input, values, bias = autocast(input, values, bias)
    rows = _checked(input, values, index, bias, out_features)
    if len(index.compact):
        index = with_columns(index)
    if values.dim() == 2:
        return straight_product(_ops.expanded_linear.default, input, values, index, bias)
    return _ops.expanded_linear.default(input, values, list(index), bias, rows)


def _checked(input: Tensor, values: Tensor, index: Index, bias: Tensor | None, out_features: int | None) -> int:
    """Returns the number of rows, once everything fits."""
    rows = check_linear(input, values, index, bias)
    if out_features is not None and out_features != rows:
        raise ValueError(f"index describes {rows} rows, but out_features is {out_features}")
    return rows


# ---- references


def sparse_linear_reference(
    input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, out_features: int
) -> Tensor:
    """`input @ W.T + bias`, sums kept in fp32 or wider."""
    wide = accumulate_dtype(input.dtype)
    row_ptr, col = index[0], Index.of(index).columns
    weight = expand_reference(values.to(wide), row_ptr, col, 0, out_features, input.shape[-1])
    return torch.nn.functional.linear(input.to(wide), weight, None if bias is None else bias.to(wide)).to(input.dtype)


def sparse_linear_backward_reference(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `sparse_linear`; what is not needed is returned with no elements."""
    wide = accumulate_dtype(input.dtype)
    row_ptr, col = index[0], Index.of(index).columns
    rows, cols = grad_output.shape[-1], input.shape[-1]
    delta, h = flat(grad_output).to(wide), flat(input).to(wide)
    grad_input, grad_values, grad_bias = input.new_empty(0), values.new_empty(0), values.new_empty(0)
    if need_input:
        grad_input = (delta @ expand_reference(values.to(wide), row_ptr, col, 0, rows, cols)).to(input.dtype)
        grad_input = grad_input.reshape(input.shape)
    if need_values:
        grad_values = torch.zeros_like(values)
        collect_reference(delta.t() @ h, row_ptr, col, 0, rows, grad_values)
    if need_bias:
        grad_bias = delta.sum(0).to(values.dtype)
    return grad_input, grad_values, grad_bias


def expanded_linear_reference(
    input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, out_features: int
) -> Tensor:
    """`sparse_linear` by dense products with row panels of the expanded matrix."""
    cols, h = input.shape[-1], flat(input)

    def rows(start: int, stop: int) -> Tensor:
        weight = panel(values, index, start, stop, cols)
        return torch.nn.functional.linear(h, weight, None if bias is None else bias[start:stop])

    panels = row_panels(out_features, cols, values.element_size())
    output = rows(*panels[0]) if len(panels) == 1 else input.new_empty(h.shape[0], out_features)
    for start, stop in panels if len(panels) > 1 else []:
        output[:, start:stop] = rows(start, stop)
    return output.reshape(*input.shape[:-1], out_features)


def expanded_linear_backward_reference(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `expanded_linear`, in the same row panels."""
    rows, cols = grad_output.shape[-1], input.shape[-1]
    delta, h = flat(grad_output), flat(input)
    grad_input = h.new_zeros(h.shape if need_input and not rows else 0)
    grad_values = torch.zeros_like(values) if need_values else values.new_empty(0)
    for start, stop in row_panels(rows, cols, values.element_size()):
        if need_input:
            part, weight = delta[:, start:stop], panel(values, index, start, stop, cols)
            grad_input = part @ weight if start == 0 else grad_input.addmm_(part, weight)
        if need_values:
            collect_panel(delta[:, start:stop].t() @ h, index, start, stop, grad_values)
    grad_bias = delta.sum(0).to(values.dtype) if need_bias else values.new_empty(0)
    return grad_input.reshape(input.shape) if need_input else grad_input, grad_values, grad_bias


# ---- fakes


def linear_fake(input: Tensor, values: Tensor, index: list[Tensor], bias: Tensor | None, out_features: int) -> Tensor:
    return input.new_empty((*input.shape[:-1], out_features))


def linear_backward_fake(
    grad_output: Tensor,
    input: Tensor,
    values: Tensor,
    index: list[Tensor],
    need_input: bool,
    need_values: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        input.new_empty(input.shape if need_input else (0,)),
        values.new_empty(values.shape if need_values else (0,)),
        values.new_empty(grad_output.shape[-1:] if need_bias else (0,)),
    )


FORWARD = "(Tensor input, Tensor values, Tensor[] index, Tensor? bias, SymInt out_features) -> Tensor"
BACKWARD = (
    "(Tensor grad_output, Tensor input, Tensor values, Tensor[] index, bool need_input, bool need_values, "
    "bool need_bias) -> (Tensor, Tensor, Tensor)"
)
define(f"sparse_linear{FORWARD}", reference=sparse_linear_reference, fake=linear_fake)
define(f"sparse_linear_backward{BACKWARD}", reference=sparse_linear_backward_reference, fake=linear_backward_fake)
define(f"expanded_linear{FORWARD}", reference=expanded_linear_reference, fake=linear_fake)
define(f"expanded_linear_backward{BACKWARD}", reference=expanded_linear_backward_reference, fake=linear_backward_fake)

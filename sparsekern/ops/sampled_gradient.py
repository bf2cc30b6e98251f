"""The weight gradient of a linear layer at a list of coordinates (SDDMM): `sampled_gradient`."""

import torch
from torch import Tensor

from .expand import PANEL_BYTES
from .library import define
from .operands import check_coordinates, check_linear_gradient
from .shapes import accumulate_dtype, flat


def sampled_gradient(grad_output: Tensor, input: Tensor, coordinates: Tensor) -> Tensor:
    """Computes the weight gradient of a linear layer at some coordinates (SDDMM).

    Entry (r, c) is `sum_b grad_output[b, r] * input[b, c]`.

    Args:
        grad_output: `[*, rows]`.
        input: `[*, cols]`, with the dtype and the leading dimensions of `grad_output`.
        coordinates: int64 `[n]`, flat coordinates `r * cols + c`; fastest when ascending.

    Returns:
        `[n]` in fp32, or fp64 if the arguments are. Nothing of the size of the weight is made.

    Raises:
        ValueError: shapes or dtypes that do not fit; coordinates out of range, where a GPU, which is not waited for,
            returns NaN.
    """
    check_linear_gradient(grad_output, input)
    check_coordinates(coordinates)
    return torch.ops.sparsekern.sampled_gradient(grad_output, input, coordinates)


def sampled_gradient_reference(grad_output: Tensor, input: Tensor, coordinates: Tensor) -> Tensor:
    """`sum_b grad_output[b, r] * input[b, c]` at flat coordinates `r * cols + c`, int64 `[n]`; fp32 or wider."""
    wide = accumulate_dtype(input.dtype)
    rows, cols = grad_output.shape[-1], input.shape[-1]
    delta, h = flat(grad_output).to(wide), flat(input).to(wide)
    if coordinates.numel() and not 0 <= int(coordinates.min()) <= int(coordinates.max()) < rows * cols:
        raise ValueError(f"coordinates must lie in [0, {rows * cols})")
    result = h.new_empty(coordinates.shape)
    step = max(1, PANEL_BYTES // max(1, 2 * h.shape[0] * h.element_size()))
    for start in range(0, coordinates.numel(), step):
        part = coordinates[start : start + step]
        row = torch.div(part, cols, rounding_mode="floor")
        result[start : start + step] = (delta[:, row] * h[:, part - row * cols]).sum(0)
    return result


def sampled_gradient_fake(grad_output: Tensor, input: Tensor, coordinates: Tensor, *geometry: object) -> Tensor:
    return input.new_empty(coordinates.shape, dtype=accumulate_dtype(input.dtype))


define(
    "sampled_gradient(Tensor grad_output, Tensor input, Tensor coordinates) -> Tensor",
    reference=sampled_gradient_reference,
    fake=sampled_gradient_fake,
)

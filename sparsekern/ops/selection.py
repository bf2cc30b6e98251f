"""Choosing coordinates: by magnitude, by chance, by gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference_sampling
from .csr import check_vectors

_ops = torch.ops.sparsekern
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def sampled_gradient(grad_output: Tensor, input: Tensor, coordinates: Tensor) -> Tensor:
    """The weight gradient of a linear layer at some coordinates: `sum_b grad_output[b, r] * input[b, c]`.

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
    check_features(grad_output, input)
    if coordinates.dtype != torch.int64 or coordinates.dim() != 1:
        raise ValueError(f"coordinates must be int64 [n], got {coordinates.dtype} {tuple(coordinates.shape)}")
    return _ops.sampled_gradient(grad_output, input, coordinates)


def check_features(grad_output: Tensor, input: Tensor) -> None:
    """Whether `grad_output` `[*, rows]` and `input` `[*, cols]` are of one linear layer.

    Raises:
        ValueError: they are not.
    """
    if grad_output.dtype != input.dtype or input.dtype not in FLOATS:
        raise ValueError(
            f"grad_output and input must have one floating-point dtype, got {grad_output.dtype} and {input.dtype}"
        )
    if input.dim() == 0 or grad_output.shape[:-1] != input.shape[:-1] or grad_output.dim() != input.dim():
        raise ValueError(
            f"grad_output and input must have the same leading dimensions, got {tuple(grad_output.shape)} and "
            f"{tuple(input.shape)}"
        )


def guided_sample(
    row_weight: Tensor, col_weight: Tensor, row_ptr: Tensor, col: Tensor, n: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Distinct inactive coordinates, drawn one after another with probability proportional to
    `row_weight[r] * col_weight[c]` (GraBo, algorithm 1). O(nnz + rows + cols + n) memory.

    A draw that hits an active or an already drawn coordinate is repeated, 32 rounds at most, after which the rest is
    uniform over what is still inactive. If `n` is no less than the coordinates of positive weight, all of these are
    taken and only the rest is uniform.

    Args:
        row_weight: `[rows]`, floating point, finite, not negative; not necessarily normalised.
        col_weight: `[cols]`, likewise; or `[groups, cols]` for a grouped convolution, of whose rows each of as many
            equal ranges has columns of its own.
        row_ptr, col: the CSR pattern of what is active.
        n: how many coordinates.
        seed: determines the result, whatever the number of threads.

    Returns:
        Flat coordinates `r * cols + c`, int64 `[n]`, ascending; and how many of them the uniform rest supplied, 0-d.

    Raises:
        ValueError: weights that are negative, infinite or NaN or do not fit the pattern; more than is inactive; what is
            no CSR pattern, which a GPU takes for granted.
    """
    for name, weight, most in (("row_weight", row_weight, 1), ("col_weight", col_weight, 2)):
        if not 1 <= weight.dim() <= most or weight.dtype not in FLOATS:
            raise ValueError(f"{name} must be a floating-point vector, got {weight.dtype} {tuple(weight.shape)}")
    check_vectors(row_ptr, col)
    if row_ptr.shape != (row_weight.shape[0] + 1,):
        raise ValueError(f"row_weight must have {row_ptr.numel() - 1} elements, one per row, got {row_weight.shape[0]}")
    if col_weight.dim() == 2:
        if col_weight.shape[0] == 0 or row_weight.shape[0] % col_weight.shape[0]:
            raise ValueError(
                f"col_weight has {col_weight.shape[0]} groups, which do not divide {row_weight.shape[0]} rows"
            )
        return reference_sampling.guided_sample(row_weight, col_weight, row_ptr, col, n, seed)
    return _ops.guided_sample(row_weight, col_weight, row_ptr, col, n, seed)


def topk_mask(scores: Sequence[Tensor], k: int, absolute: bool = False) -> list[Tensor]:
    """Marks exactly the `k` largest entries over all tensors, without concatenating them.

    Of equal entries those come first that are first in the list and, within a tensor, in row-major order. On a GPU the
    host waits once, for whether there was a NaN, when everything that makes the masks is queued.

    Args:
        scores: tensors of one floating-point dtype and any shapes.
        k: how many, from 0 to all.
        absolute: compare magnitudes.

    Returns:
        Bool tensors of the shapes of `scores`.

    Raises:
        ValueError: NaN among the scores, `k` out of range, dtypes or devices that differ.
    """
    if not scores and k == 0:
        return []
    return _ops.topk_mask(_scores(scores), k, absolute)


def kth_largest(scores: Sequence[Tensor], k: int, absolute: bool = False) -> Tensor:
    """The `k`-th largest entry over all tensors (`k` from 1), or the `k`-th largest magnitude, 0-d, dtype of `scores`.

    Arguments and errors are those of `topk_mask`.
    """
    return _ops.kth_largest(_scores(scores), k, absolute)


def _scores(scores: Sequence[Tensor]) -> list[Tensor]:
    if not scores:
        raise ValueError("scores must not be empty")
    kinds = {(score.dtype, score.device) for score in scores}
    if len(kinds) > 1 or scores[0].dtype not in FLOATS:
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ValueError(f"scores must have one floating-point dtype and one device, got {found}")
    return [score.detach() for score in scores]

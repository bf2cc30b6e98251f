"""Inactive coordinates at random, weighted by rows and columns (GraBo): `guided_sample`."""

import torch
from torch import Tensor

from .csr import check_host, check_vectors
from .distinct import Stream, contains, extend_distinct, random_distinct
from .library import define
from .shapes import FLOATS

ROUNDS = 32  # of draws that are repeated before the rest is uniform


def guided_sample(
    row_weight: Tensor, col_weight: Tensor, row_ptr: Tensor, col: Tensor, n: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Draws distinct inactive coordinates, one after another, with probability proportional to
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
        return guided_sample_reference(row_weight, col_weight, row_ptr, col, n, seed)
    return torch.ops.sparsekern.guided_sample(row_weight, col_weight, row_ptr, col, n, seed)


def guided_sample_reference(
    row_weight: Tensor, col_weight: Tensor, row_ptr: Tensor, col: Tensor, n: int, seed: int
) -> tuple[Tensor, Tensor]:
    """`n` distinct inactive coordinates, drawn one after another with probability proportional to
    `row_weight[r] * col_weight[c]`, ascending; and how many of them the uniform remainder supplied.

    Draws that hit an active or an already drawn coordinate are repeated, at most `ROUNDS` times, after which the rest
    is uniform over what is still inactive. Where `n` is no less than what has a positive probability, that is taken
    whole and only what is then missing is uniform. `col_weight` `[groups, cols]` has one distribution for each of as
    many equal ranges of rows.
    """
    row_weight, col_weight = row_weight.double().cpu(), torch.atleast_2d(col_weight).double().cpu()
    rows, (groups, cols) = row_weight.numel(), col_weight.shape
    height = rows // groups
    col_sum, col_positive = _cumulative(col_weight, "col_weight", col.device)
    if groups > 1:  # a row's share is its weight times the sum of its group's
        row_weight = row_weight * col_weight.sum(1).repeat_interleave(height)
    row_sum, row_positive = _cumulative(row_weight, "row_weight", col.device)
    check_host(row_ptr, col, cols)
    nnz = int(row_ptr[-1])
    row_of = torch.repeat_interleave(torch.arange(rows, device=col.device), row_ptr.diff().long())
    active = row_of * cols + col[:nnz].long()
    if not 0 <= n <= rows * cols - nnz:
        raise ValueError(f"n must be between 0 and {rows * cols - nnz}, the number of inactive coordinates, got {n}")

    stream = Stream(seed, col.device)
    row_positive = row_positive.reshape(groups, height)
    active_positive = row_positive.flatten()[row_of] & col_positive[row_of // max(1, height), col[:nnz].long()]
    per_group = row_positive.sum(1) * col_positive.sum(1)
    start = 0
    if int(per_group.sum()) - int(active_positive.sum()) <= n:
        parts = [
            ((at * height + positive.nonzero()) * cols + col_positive[at].nonzero().T).flatten()
            for at, positive in enumerate(row_positive)
        ]
        support = torch.cat(parts)
        chosen = support[~contains(active, support)]
    else:

        def draw(position: Tensor) -> Tensor:
            row = torch.searchsorted(row_sum, stream.unit(2 * position) * row_sum[-1], right=True)
            drawn = row * cols + _pick(col_sum, row // height, stream.unit(2 * position + 1))
            return drawn[~contains(active, drawn)]

        chosen, start = extend_distinct(active.new_empty(0), n, ROUNDS, 0, draw)
    rest = n - chosen.numel()
    taken = torch.cat([active, chosen]).sort().values
    ranks = random_distinct(rest, rows * cols - taken.numel(), stream, 2 * start)  # a guided draw took two numbers
    gaps = taken - torch.arange(taken.numel(), device=taken.device)
    uniform = ranks + torch.searchsorted(gaps, ranks, right=True)
    return torch.cat([chosen, uniform]).sort().values, torch.tensor(rest, device=col.device)


def _cumulative(weight: Tensor, name: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """The cumulative sum of `weight` (on the CPU, one order of sums for every device) relative to its largest, along
    the last dimension, and whether each is more than zero."""
    if not bool((weight.isfinite() & (weight >= 0)).all()):
        raise ValueError(f"{name} must be finite and not negative")
    if weight.shape[-1]:
        largest = weight.max(-1, keepdim=True).values
        weight = weight / torch.where(largest > 0, largest, 1)
    return weight.cumsum(-1).to(device), (weight > 0).to(device)


def _pick(sums: Tensor, group: Tensor, unit: Tensor) -> Tensor:
    """Returns for each of `unit` in [0, 1) the column where the cumulative sums of its group pass that share of their
    total."""
    groups, cols = sums.shape
    if groups == 1:
        return torch.searchsorted(sums[0], unit * sums[0, -1], right=True)
    total = torch.where(sums[:, -1:] > 0, sums[:, -1:], 1)
    # Group g takes [g, g + 1) of one ascending list; the draws stay below g + 1 whatever the rounding.
    ends = (sums / total + torch.arange(groups, device=sums.device)[:, None]).flatten()
    target = torch.minimum(unit + group, torch.nextafter(group + 1.0, group.double()))
    return torch.searchsorted(ends, target, right=True) - group * cols


def guided_sample_fake(
    row_weight: Tensor, col_weight: Tensor, row_ptr: Tensor, col: Tensor, n: int, seed: int
) -> tuple[Tensor, Tensor]:
    return col.new_empty((n,), dtype=torch.int64), col.new_empty((), dtype=torch.int64)


define(
    "guided_sample(Tensor row_weight, Tensor col_weight, Tensor row_ptr, Tensor col, SymInt n, int seed) "
    "-> (Tensor, Tensor)",
    reference=guided_sample_reference,
    fake=guided_sample_fake,
)

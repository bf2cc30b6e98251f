"""One SGD step of the score of every weight: `score_step`."""

import torch
from torch import Tensor

from .csr import check_host, check_vectors, rows_of
from .library import define
from .operands import check_state


def score_step(
    score: Tensor,
    momentum_buffer: Tensor,
    gradient: Tensor,
    weight: Tensor,
    row_ptr: Tensor,
    col: Tensor,
    *,
    lr: float,
    momentum: float,
) -> None:
    """Makes one SGD step of the score of every weight, then drops the loss gradient of the pruned ones; one pass, in
    place (Zhang et al., OptG, eq. 10 and 12; `torch.optim.SGD` without dampening):

        momentum_buffer <- momentum * momentum_buffer + gradient * weight
        score           <- score - lr * momentum_buffer
        gradient        <- 0 off the pattern

    Args:
        score, momentum_buffer: fp32 or fp64, contiguous, of the weight's shape; the buffer starts as zeros.
        gradient: straight-through gradient at every entry, any strides.
        weight: dense `[rows, ...]`, dtype of `gradient`.
        row_ptr, col: the CSR pattern of the active weights, of the weight viewed `[rows, cols]`.
        lr, momentum: of this step.

    Raises:
        ValueError: arguments that do not fit, pointers or columns out of range; a GPU takes these for granted.
    """
    check_state(score, "score", momentum_buffer=momentum_buffer, gradient=gradient, weight=weight)
    if momentum_buffer.dtype != score.dtype or not momentum_buffer.is_contiguous():
        raise ValueError(f"momentum_buffer must be contiguous with the dtype {score.dtype} of score")
    if weight.dtype != gradient.dtype:
        raise ValueError(f"weight must have the dtype {gradient.dtype} of gradient, got {weight.dtype}")
    check_vectors(row_ptr, col)
    if weight.dim() < 2 or row_ptr.shape != (weight.shape[0] + 1,):
        raise ValueError(f"row_ptr must have {len(weight) + 1 if weight.dim() else 2} elements, got {row_ptr.numel()}")
    dense = gradient.contiguous()
    torch.ops.sparsekern.score_step(score, momentum_buffer, dense, weight.contiguous(), row_ptr, col, lr, momentum)
    if dense is not gradient:
        gradient.copy_(dense)


def score_step_reference(
    score: Tensor,
    momentum_buffer: Tensor,
    gradient: Tensor,
    weight: Tensor,
    row_ptr: Tensor,
    col: Tensor,
    lr: float,
    momentum: float,
) -> None:
    """`momentum_buffer <- momentum * momentum_buffer + gradient * weight`, `score <- score - lr * momentum_buffer`;
    then `gradient` is zero off the pattern."""
    check_host(row_ptr, col, weight[:1].numel())
    wide = score.dtype
    momentum_buffer.mul_(momentum).addcmul_(gradient.to(wide), weight.to(wide))
    score.add_(momentum_buffer, alpha=-lr)
    active = torch.zeros(row_ptr.numel() - 1, weight[:1].numel(), dtype=torch.bool, device=col.device)
    active[rows_of(row_ptr), col[: int(row_ptr[-1])].long()] = True
    gradient.masked_fill_(~active.reshape(gradient.shape), 0)


define(
    "score_step(Tensor(a!) score, Tensor(b!) momentum_buffer, Tensor(c!) gradient, Tensor weight, Tensor row_ptr, "
    "Tensor col, float lr, float momentum) -> ()",
    reference=score_step_reference,
)

"""The step of the scores of OptG."""

from collections.abc import Callable

import pytest
import torch
from support import samples
from torch import Tensor

from sparsekern import ops


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_score_step_is_sgd(momentum: float) -> None:
    p = samples.patterns()["odd widths"]
    weight = torch.randn(p.mask.shape, dtype=torch.double)
    score = torch.zeros_like(weight)
    theirs, buffer = torch.nn.Parameter(score.clone()), torch.zeros_like(weight)
    optimizer = torch.optim.SGD([theirs], momentum=momentum)
    for lr in (0.1, 0.03, 0.0):
        gradient = torch.randn_like(weight)
        theirs.grad = gradient * weight
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        ops.score_step(score, buffer, gradient, weight, p.row_ptr, p.col, lr=lr, momentum=momentum)
        assert not gradient[~p.mask].any()
        torch.testing.assert_close(score, theirs.detach())


def test_score_step_by_hand() -> None:
    """OptG, equation 10."""
    weight, gradient = torch.tensor([[1.0, -2, 3, 0.5]]), torch.tensor([[0.5, 0.5, -1, -2]])
    score, buffer = torch.zeros(1, 4), torch.zeros(1, 4)
    p = samples.Pattern(torch.tensor([[False, True, True, True]]))
    ops.score_step(score, buffer, gradient, weight, p.row_ptr, p.col, lr=0.1, momentum=0.9)
    torch.testing.assert_close(score, torch.tensor([[-0.05, 0.1, 0.3, 0.1]]))
    assert gradient.tolist() == [[0, 0.5, -1, -2]]


def test_a_layout_that_is_not_contiguous() -> None:
    gradient, weight = (torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last) for _ in range(2))
    pattern = samples.Pattern(torch.rand(4, 12) < 0.5)
    score, buffer, kept = torch.zeros(4, 3, 2, 2), torch.zeros(4, 3, 2, 2), gradient.clone()
    ops.score_step(score, buffer, kept, weight, pattern.row_ptr, pattern.col, lr=0.5, momentum=0.9)
    assert torch.equal(kept, gradient * pattern.mask.reshape(4, 3, 2, 2))
    torch.testing.assert_close(score, -0.5 * gradient * weight)


def _errors() -> dict[str, tuple[str, Callable[[], object]]]:
    w = torch.randn(2, 3)
    row_ptr, col = torch.tensor([0, 1, 1], dtype=torch.int32), torch.tensor([2], dtype=torch.int32)

    def score(*changed: Tensor, row_ptr: Tensor = row_ptr) -> object:
        args = [*changed, *[w.clone() for _ in range(4 - len(changed))]]
        return ops.score_step(*args, row_ptr, col, lr=0.1, momentum=0.9)  # type: ignore[misc]

    return {
        "buffer": ("momentum_buffer must be contiguous", lambda: score(w, w.double())),
        "weight": ("dtype torch.float64 of gradient", lambda: score(w, w, w.double())),
        "row_ptr": ("row_ptr must have 3 elements, got 2", lambda: score(row_ptr=row_ptr[:2])),
    }


@pytest.mark.parametrize("case", _errors())
def test_refuses(case: str) -> None:
    message, call = _errors()[case]
    with pytest.raises(ValueError, match=message):
        call()

"""Weights that stay move to the front of their memory, when the transaction commits and not before."""

import pytest
import torch
from torch import Tensor, nn

from sparsekern.ops import extension
from sparsekern.sparsity.change.compaction import Compaction, Marks, trim
from sparsekern.sparsity.change.transaction import Transaction


def expected(tensor: Tensor, keep: Tensor, capacity: int, fill: float) -> Tensor:
    left = tensor.detach().reshape(-1)[: len(keep)][keep]
    return torch.cat([left, torch.full((capacity - len(left),), fill).to(left)])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("size", [0, 1, 50, 64, 99_999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.complex128])
def test_equals_a_choice_by_a_mask(size: int, share: float, dtype: torch.dtype) -> None:
    tensor = (100 * torch.rand(size + 5)).to(dtype)  # with slack
    keep = torch.rand(size) < share
    keep[: size // 3] = True  # nothing moves there
    kept = int(keep.sum())
    in_place = extension is not None and dtype.itemsize <= 8
    for capacity in (kept, kept + 3, size + 5, size + 9):
        if capacity < kept:
            continue
        own, change = tensor.clone(), Transaction()
        moved = Compaction(change, Marks.of(keep), capacity)(own, 2.0)
        assert torch.equal(own, tensor)
        change.commit()
        assert torch.equal(moved, expected(tensor, keep, capacity, 2.0))
        assert (moved is own) == (in_place and capacity == size + 5)


@pytest.mark.parametrize("dropped", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("grown", [0.001, 0.3, 1.0])
@pytest.mark.parametrize("size", [1, 50, 64, 99_999])
def test_what_grows_comes_between_what_stays(size: int, grown: float, dropped: float) -> None:
    tensor, keep = torch.rand(size + 5), torch.rand(size) >= dropped
    kept = int(keep.sum())
    used = kept + max(1, int(grown * size))
    old = torch.zeros(used, dtype=torch.bool)
    old[torch.randperm(used)[:kept]] = True
    for capacity in (used, used + 3, max(used, size + 5), 2 * size + 9):
        for fill in (2.0, torch.tensor(0.5)):
            want = torch.full((capacity,), float(fill))
            want[:used][old] = tensor[:size][keep]
            own, change = tensor.clone(), Transaction()
            moved = Compaction(change, Marks.of(keep), capacity, Marks.of(old))(own, fill)
            assert torch.equal(own, tensor)
            change.commit()
            assert torch.equal(moved, want)
            assert (moved is own) == (extension is not None and capacity == size + 5)


def test_tensors_of_any_layout_follow() -> None:
    keep = torch.rand(2 * 3 * 4 * 4) < 0.5
    kept = int(keep.sum())
    weight = nn.Parameter(torch.randn(2, 3, 4, 4))
    last = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        inference = torch.randn(2, 3, 4, 4)
    change = Transaction()
    move, tensors = Compaction(change, Marks.of(keep), kept), [weight, last, inference]
    want = [expected(tensor, keep, kept, 0.0) for tensor in tensors]
    got = [move(tensor, 0.0) for tensor in tensors]
    change.commit()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    trim(list(got))
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in got)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_memory_that_is_held_twice_moves_once() -> None:
    tensor, keep = torch.arange(8.0), torch.arange(8) % 2 == 1
    change = Transaction()
    move = Compaction(change, Marks.of(keep), 8)
    again = tensor.view(8)
    assert move(tensor, 0.0) is tensor
    assert move(again, 0.0) is again
    change.commit()
    assert tensor.tolist() == again.tolist() == [1, 3, 5, 7, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_move_into_another_tensor(dtype: torch.dtype) -> None:
    source, keep, target = torch.randn(100_000), torch.rand(100_000) < 0.2, torch.ones(50_000, dtype=dtype)
    change = Transaction()
    Compaction(change, Marks.of(keep), 50_000).into(source, target)
    assert bool((target == 1).all())
    change.commit()
    assert torch.equal(target, expected(source, keep, 50_000, 0.0).to(dtype))

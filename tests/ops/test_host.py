"""What the host learns of tensors."""

import pytest
import torch
from support.devices import moved

from sparsekern.ops import host


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025, 300_000])
def test_masks_are_counted_wherever_they_begin(n: int, device: str) -> None:
    """Full ones, too: a byte of a word holds no more than 255."""
    masks = moved([torch.rand(n) < 0.3, torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)], device)
    for start in (0, 1, 8):
        parts = [mask[start:] for mask in masks]
        assert host.counts(parts) == [sum(part.tolist()) for part in parts]
        assert all(host.count(part).dtype == torch.int64 and host.count(part).dim() == 0 for part in parts)


def test_masks_of_any_strides_are_counted(device: str) -> None:
    (mask,) = moved([torch.rand(300, 400) < 0.4], device)
    parts = [mask, mask.t(), mask[:, ::2], mask[3:, 5:]]
    assert host.counts(parts) == [sum(part.flatten().tolist()) for part in parts]
    assert host.counts([]) == []

"""Channels, and which of them are the same."""

import torch
from torch import Tensor


class Slots:
    """Numbered channels, of which some are joined into one and some are pinned."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.pinned: list[bool] = []

    def new(self, count: int, pinned: bool = False) -> Tensor:
        """Numbers of further channels, int64 `[count]`."""
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        self.pinned.extend([pinned] * count)
        return torch.arange(start, start + count)

    def find(self, slot: int) -> int:
        while self.parent[slot] != slot:
            self.parent[slot] = slot = self.parent[self.parent[slot]]
        return slot

    def join(self, left: Tensor, right: Tensor) -> None:
        """Makes the channels at each index of both one."""
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            a, b = self.find(a), self.find(b)
            self.parent[max(a, b)] = min(a, b)

    def pin(self, slots: Tensor) -> None:
        for slot in slots.tolist():
            self.pinned[slot] = True

    def channels(self) -> tuple[Tensor, Tensor]:
        """Of each slot the channel, that is the first of the slots joined with it; of each channel whether it is
        pinned (False for slots that are not the first)."""
        channel = torch.tensor([self.find(slot) for slot in range(len(self.parent))])
        pinned = torch.zeros(len(self.parent), dtype=torch.bool)
        pinned[channel[torch.tensor(self.pinned, dtype=torch.bool)]] = True
        return channel, pinned

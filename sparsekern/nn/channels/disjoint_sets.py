"""Disjoint sets of channels: which ids stand for one and the same channel (union-find)."""

import torch
from torch import Tensor


class ChannelSets:
    """Channel ids, of which some are joined into one channel and some are pinned."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.pinned: list[bool] = []

    def new(self, count: int, pinned: bool = False) -> Tensor:
        """Returns the ids of further channels, int64 `[count]`."""
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        self.pinned.extend([pinned] * count)
        return torch.arange(start, start + count)

    def find(self, channel: int) -> int:
        """Returns the smallest id of the set that an id belongs to."""
        while self.parent[channel] != channel:
            self.parent[channel] = channel = self.parent[self.parent[channel]]
        return channel

    def join(self, left: Tensor, right: Tensor) -> None:
        """Joins the ids at each position of both."""
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            a, b = self.find(a), self.find(b)
            self.parent[max(a, b)] = min(a, b)

    def pin(self, ids: Tensor) -> None:
        """Marks channels that have to stay."""
        for channel in ids.tolist():
            self.pinned[channel] = True

    def channels(self) -> tuple[Tensor, Tensor]:
        """Returns for each id the first of its set, int64, and whether that set is pinned (False for other ids)."""
        channel = torch.tensor([self.find(own) for own in range(len(self.parent))])
        pinned = torch.zeros(len(self.parent), dtype=torch.bool)
        pinned[channel[torch.tensor(self.pinned, dtype=torch.bool)]] = True
        return channel, pinned

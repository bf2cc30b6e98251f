"""Channels of zeros."""

from torch import Tensor, nn


class ZeroChannels(nn.Module):
    """Appends `more` channels of zeros: `[..., channels, height, width]` to `[..., channels + more, height, width]`.

    Does what `torch.nn.functional.pad` does, but as a module, of which `shrink` can change the number of channels.
    """

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.more))

    def extra_repr(self) -> str:
        return f"more={self.more}"

"""A small residual network, and which of its channels are tied, for the tests of channels that are taken out."""

import torch
from torch import Tensor, nn

from sparsekern.nn import prunable_layers

Batch = tuple[Tensor, Tensor]


class Residual(nn.Module):
    """Two additions tie the stem to the second convolution of both blocks; five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.a, self.norm_a = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b, self.norm_b = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.c, self.d = nn.Conv2d(6, 7, 1), nn.Conv2d(7, 6, 1)
        self.e, self.head = nn.Conv2d(6, 9, 3, stride=2), nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.norm_b(self.b(torch.relu(self.norm_a(self.a(x))))))
        x = x + self.d(torch.tanh(self.c(x)))
        return self.head(torch.relu(self.e(x)).flatten(1))


TIED = [["stem", "b", "d"], ["a"], ["c"], ["e"]]
READERS = [["a", "c", "e"], ["b"], ["d"], []]  # `head` reads four positions of each channel of `e`
GATES = 6 + 8 + 7 + 9


def residual() -> nn.Module:
    torch.manual_seed(0)
    model = Residual().double()
    for norm in (model.norm, model.norm_a, model.norm_b):
        nn.init.normal_(norm.bias)
    return model


def samples(n: int = 4, size: int = 10, shape: tuple[int, ...] = (3, 6, 6)) -> list[Batch]:
    torch.manual_seed(1)
    return [(torch.randn(size, *shape, dtype=torch.double), torch.randint(5, (size,))) for _ in range(n)]


def living(model: nn.Module) -> list[Tensor]:
    """Which channels of each group of `Residual` its first layer writes."""
    layers = prunable_layers(model)
    return [layers[names[0]].topology.mask().flatten(1).any(1) for names in TIED]

"""Wide residual networks."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from .common import initialise, scaled


class Block(nn.Module):
    """Two 3 x 3 convolutions, each after batch norm and ReLU; `x [n, channels, h, w]` to `[n, width, h', w']`.

    Where the shape changes, the shortcut is a 1 x 1 convolution of the activated input.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        same = channels == width and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels, width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(active))))


def wrn28_2(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """WRN-28-2 of Zagoruyko and Komodakis 2016, without dropout."""
    return _wide(4, 2, shape, classes, width)


def wrn28_4(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """WRN-28-4 of Zagoruyko and Komodakis 2016, without dropout."""
    return _wide(4, 4, shape, classes, width)


def wrn28_8(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """WRN-28-8 of Zagoruyko and Komodakis 2016, without dropout."""
    return _wide(4, 8, shape, classes, width)


def _wide(n: int, k: int, shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """6n + 4 layers, channels multiplied by `k` behind the first one."""
    channels = scaled(16, width)
    layers: dict[str, nn.Module] = {"conv1": nn.Conv2d(shape[0], channels, 3, padding=1, bias=False)}
    for i, base in enumerate((16, 32, 64), 1):
        out = scaled(base * k, width)
        strides = [1 if i == 1 else 2] + [1] * (n - 1)
        layers[f"layer{i}"] = nn.Sequential(
            *(Block(channels if j == 0 else out, out, s) for j, s in enumerate(strides))
        )
        channels = out
    layers |= {"bn": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True)}
    layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels, classes)}
    return initialise(nn.Sequential(OrderedDict(layers)))

"""Residual networks of torchvision's blocks, at any width and for any number of input channels."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from ..errors import require
from ..nn import ZeroChannels
from .common import initialise, scaled, small


class Subsample(nn.Module):
    """A shortcut without parameters: every second pixel, zeros for the new channels (He et al. 2016, option A)."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.zeros, self.stride = ZeroChannels(more), stride

    def forward(self, x: Tensor) -> Tensor:
        return self.zeros(x[:, :, :: self.stride, :: self.stride])

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


def resnet20(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """He et al. 2016, section 4.2, n = 3."""
    return _cifar(3, 16, shape, classes, width)


def resnet32(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """He et al. 2016, section 4.2, n = 5."""
    return _cifar(5, 16, shape, classes, width)


def resnet56(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """He et al. 2016, section 4.2, n = 9."""
    return _cifar(9, 16, shape, classes, width)


def resnet50_cifar_optg(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """Builds OptG's "ResNet-50" for CIFAR: 6n + 2 layers, n = 8, 32 to 128 channels, projection shortcuts."""
    return _cifar(8, 32, shape, classes, width, project=True)


def resnet18(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """torchvision's resnet18; small images meet a 3 x 3 convolution of stride 1 and no pooling first."""
    return _imagenet("BasicBlock", (2, 2, 2, 2), shape, classes, width)


def resnet50(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """torchvision's resnet50; small images meet a 3 x 3 convolution of stride 1 and no pooling first."""
    return _imagenet("Bottleneck", (3, 4, 6, 3), shape, classes, width)


def _cifar(n: int, base: int, shape: tuple[int, ...], classes: int, width: float, project: bool = False) -> nn.Module:
    widths = [scaled(base * factor, width) for factor in (1, 2, 4)]
    layers = _stem(shape[0], widths[0])
    return _assemble("BasicBlock", layers, (n, n, n), widths, classes, project)


def _imagenet(block: str, depths: tuple, shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    widths = [scaled(channels, width) for channels in (64, 128, 256, 512)]
    layers = _stem(shape[0], widths[0])
    if not small(shape):
        layers["conv1"] = nn.Conv2d(shape[0], widths[0], 7, stride=2, padding=3, bias=False)
        layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return _assemble(block, layers, depths, widths, classes, project=True)


def _stem(channels: int, width: int) -> dict[str, nn.Module]:
    conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    return {"conv1": conv, "bn1": nn.BatchNorm2d(width), "relu": nn.ReLU(inplace=True)}


def _assemble(
    block: str, layers: dict[str, nn.Module], depths: tuple, widths: list[int], classes: int, project: bool
) -> nn.Module:
    """Stem, stages and classifier under torchvision's names, so that state dicts are interchangeable."""
    kind = getattr(require("torchvision.models.resnet"), block)
    channels = widths[0]
    for i, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
        stage = []
        for stride in [1 if i == 1 else 2] + [1] * (depth - 1):
            stage.append(_block(kind, channels, width, stride, project))
            channels = width * kind.expansion
        layers[f"layer{i}"] = nn.Sequential(*stage)
    layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels, classes)}
    return initialise(nn.Sequential(OrderedDict(layers)))


def _block(kind: Any, channels: int, width: int, stride: int, project: bool) -> nn.Module:
    out = width * kind.expansion
    shortcut: nn.Module | None = None
    if stride != 1 or channels != out:
        if project:
            conv = nn.Conv2d(channels, out, 1, stride=stride, bias=False)
            shortcut = nn.Sequential(conv, nn.BatchNorm2d(out))
        else:
            shortcut = Subsample(out - channels, stride)
    return kind(channels, width, stride, shortcut)

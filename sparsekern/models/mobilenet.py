"""MobileNet without inverted residuals."""

from collections import OrderedDict

from torch import nn

from ..errors import require
from .common import initialise, scaled, small

# (output channels, stride) of each depthwise separable block
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def mobilenetv1(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """MobileNet of Howard et al. 2017; small images meet a first convolution of stride 1."""
    block = require("torchvision.ops").Conv2dNormActivation
    channels = scaled(32, width)
    layers: list[nn.Module] = [block(shape[0], channels, 3, stride=1 if small(shape) else 2)]
    for base, stride in BLOCKS:
        out = scaled(base, width)
        layers += [block(channels, channels, 3, stride=stride, groups=channels), block(channels, out, 1)]
        channels = out
    parts = {"features": nn.Sequential(*layers), "avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return initialise(nn.Sequential(OrderedDict(parts | {"fc": nn.Linear(channels, classes)})))

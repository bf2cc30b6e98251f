"""VGG with batch norm."""

from collections import OrderedDict

from torch import nn

from ..errors import UsageError, require
from .common import initialise, scaled, small


def vgg16(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """torchvision's vgg16_bn; small images are classified by one linear layer."""
    return _vgg("vgg16_bn", "D", shape, classes, width)


def vgg19(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """torchvision's vgg19_bn; small images are classified by one linear layer."""
    return _vgg("vgg19_bn", "E", shape, classes, width)


def vgg16_quarter(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """The VGG-16 of GraBo's experiments: small images, a quarter of the channels, one linear layer."""
    return _small("D", shape, classes, width / 4)


def _vgg(name: str, config: str, shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    if small(shape):
        return _small(config, shape, classes, width)
    if width != 1:
        raise UsageError(f"--width does not apply to {name} of torchvision, which images above 64 pixels get")
    model = getattr(require("torchvision.models"), name)(weights=None, num_classes=classes)
    if shape[0] != 3:
        model.features[0] = nn.Conv2d(shape[0], 64, 3, padding=1)
        initialise(model.features)
    return model


def _small(config: str, shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    vgg = require("torchvision.models.vgg")
    plan = ["M" if entry == "M" else scaled(entry, width) for entry in vgg.cfgs[config]]
    features = vgg.make_layers(plan, batch_norm=True)
    widths = [entry for entry in plan if isinstance(entry, int)]
    if shape[0] != 3:
        features[0] = nn.Conv2d(shape[0], widths[0], 3, padding=1)
    layers = {"features": features, "avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    layers["classifier"] = nn.Linear(widths[-1], classes)
    return initialise(nn.Sequential(OrderedDict(layers)))

"""Perceptrons, and a plain convolutional network."""

from collections import OrderedDict
from itertools import pairwise
from math import prod

from torch import nn

from .common import scaled


def mlp(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """Seven hidden layers of 512 ReLU units."""
    return _perceptron(prod(shape), [512] * 7, classes, width)


def lenet300(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """LeNet-300-100: inputs - 300 - 100 - classes."""
    return _perceptron(prod(shape), [300, 100], classes, width)


def _perceptron(inputs: int, hidden: list[int], classes: int, width: float) -> nn.Module:
    sizes = [inputs, *(scaled(units, width) for units in hidden)]
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for i, (fan_in, fan_out) in enumerate(pairwise([*sizes, classes]), 1):
        layers[f"fc{i}"] = nn.Linear(fan_in, fan_out)
        layers[f"relu{i}"] = nn.ReLU()
    layers.popitem()  # the last layer gives logits
    return _initialise(layers)


def smallcnn(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """Four 3 x 3 convolutions of 16, 32, 64 and 128 channels, each with ReLU and 2 x 2 max pooling, and a linear layer.

    An image too small for four poolings (28 x 28 is just large enough) goes without the last ones.
    """
    channels, height, breadth = shape
    layers: dict[str, nn.Module] = {}
    for i, base in enumerate((16, 32, 64, 128), 1):
        layers[f"conv{i}"] = nn.Conv2d(channels, scaled(base, width), 3, padding=1)
        layers[f"relu{i}"] = nn.ReLU()
        channels = scaled(base, width)
        if min(height, breadth) >= 2:
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            height, breadth = height // 2, breadth // 2
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels * height * breadth, classes)
    return _initialise(layers)


def _initialise(layers: dict[str, nn.Module]) -> nn.Module:
    """He et al. 2015: without batch norm it is the fan-in that keeps the scale of the activations."""
    for layer in layers.values():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return nn.Sequential(OrderedDict(layers))

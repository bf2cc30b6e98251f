"""The networks that `--model` names."""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from math import prod

from torch import nn

from .errors import choose


def mlp(inputs: int, classes: int, width: float) -> nn.Sequential:
    """Seven hidden layers of 512 ReLU units."""
    return _perceptron(inputs, [512] * 7, classes, width)


def lenet300(inputs: int, classes: int, width: float) -> nn.Sequential:
    """LeNet-300-100: inputs - 300 - 100 - classes."""
    return _perceptron(inputs, [300, 100], classes, width)


def _perceptron(inputs: int, hidden: list[int], classes: int, width: float) -> nn.Sequential:
    sizes = [inputs, *(max(1, round(units * width)) for units in hidden)]
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for i, (fan_in, fan_out) in enumerate(pairwise([*sizes, classes]), 1):
        layers[f"fc{i}"] = nn.Linear(fan_in, fan_out)
        layers[f"relu{i}"] = nn.ReLU()
    layers.popitem()  # the last layer gives logits
    network = nn.Sequential(OrderedDict(layers))
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return network


MODELS: dict[str, Callable[[int, int, float], nn.Sequential]] = {"mlp": mlp, "lenet300": lenet300}


def build(name: str, shape: tuple[int, ...], classes: int, width: float = 1.0) -> nn.Sequential:
    """A freshly initialised network (He et al. 2015: variance 2 / fan-in, zero biases), from torch's own generator.

    Args:
        shape: of one input, without the batch dimension.
        classes: number of outputs.
        width: multiplies every hidden size.
    """
    return MODELS[choose("model", name, list(MODELS))](prod(shape), classes, width)

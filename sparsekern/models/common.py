"""Sizes and initialisation that the networks share."""

from torch import nn

# Images up to this many pixels high or wide get networks made for CIFAR: no strides before the first block.
SMALL = 64


def small(shape: tuple[int, ...]) -> bool:
    return max(shape[-2:]) <= SMALL


def scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def initialise(model: nn.Module) -> nn.Module:
    """Convolutions normal with variance 2 / fan-out (He et al. 2015) and zero biases, linear layers as torch has them.

    What torchvision does for its residual networks.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model

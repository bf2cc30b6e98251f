"""Small networks, each with another way of passing channels on, for the tests of channels.py and shrink.py."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsekern as sk
from sparsekern.models import resnet, wide
from sparsekern.nn import prunable_layers
from sparsekern.nn.conversion.convert import SPARSE


class Functional(nn.Module):
    """A model whose `forward` is `function(self, x)`."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def conv(inputs: int, outputs: int, kernel: int = 3, bias: bool = True, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias, **options)


def perceptron(bias: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(108, 8, bias=bias), nn.ReLU(), nn.Linear(8, 6, bias=bias), nn.Sigmoid(), nn.Linear(6, 4)
    )


def vgg(norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 6), (6, 8), (8, 8)):
        layers += [conv(inputs, outputs), *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 7), nn.ReLU(), nn.Linear(7, 4))


def mobilenet() -> nn.Module:
    layers: list[nn.Module] = [conv(3, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU6()]
    for inputs, outputs, stride in ((6, 8, 1), (8, 10, 2)):
        layers += [conv(inputs, inputs, bias=False, groups=inputs, stride=stride), nn.BatchNorm2d(inputs), nn.ReLU6()]
        layers += [conv(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6()]
    layers += [conv(10, 20, groups=10), nn.ReLU()]  # two outputs for each input channel
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 4))


def concatenated(self: Any, x: Tensor) -> Tensor:
    """As in a DenseNet: each layer reads all that came before it, the input too."""
    x = torch.cat([x, self.a(x)], 1)
    x = torch.cat([x, self.b(F.relu(self.norm(x)))], dim=1)
    return self.head(F.relu(x).mean([2, 3]))


def squeezed(self: Any, x: Tensor) -> Tensor:
    """Squeeze and excitation: one factor for each channel."""
    x = F.relu(self.a(x))
    batch, channels, _, _ = x.size()
    factor = F.adaptive_avg_pool2d(x, 1).view(batch, channels)
    factor = torch.sigmoid(self.up(F.relu(self.down(factor)))).view(batch, channels, 1, 1)
    return self.head(torch.flatten(x * factor, 1))


def shared(self: Any, x: Tensor) -> Tensor:
    """One layer twice."""
    x = F.relu(self.a(x))
    x = F.relu(self.b(x))
    return self.head(F.relu(self.b(x)).flatten(1))


def small(block: str, project: bool) -> nn.Module:
    stem = resnet._stem(3, 4)
    return resnet._assemble(block, stem, (2, 2, 1), [4, 6, 8], 4, project)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": perceptron,
    "perceptron without bias": lambda: perceptron(bias=False),
    "vgg": lambda: vgg(norm=False),
    "vgg with batch norm": lambda: vgg(norm=True),
    "resnet option A": lambda: small("BasicBlock", project=False),
    "resnet projections": lambda: small("BasicBlock", project=True),
    "bottleneck": lambda: small("Bottleneck", project=True),
    "wide": lambda: wide._wide(1, 1, (3, 6, 6), 4, 0.25),
    "mobilenet": mobilenet,
    "concatenated": lambda: Functional(
        concatenated, a=conv(3, 5), norm=nn.BatchNorm2d(8), b=conv(8, 4, bias=False), head=nn.Linear(12, 4)
    ),
    "squeezed": lambda: Functional(
        squeezed, a=conv(3, 6), down=nn.Linear(6, 5), up=nn.Linear(5, 6), head=nn.Linear(216, 4)
    ),
    "shared": lambda: Functional(shared, a=conv(3, 6, bias=False), b=conv(6, 6, bias=False), head=nn.Linear(216, 4)),
    "grouped": lambda: nn.Sequential(
        conv(3, 6), conv(6, 4), nn.ReLU(), conv(4, 8, groups=2), conv(8, 6), nn.ReLU(), nn.Conv2d(6, 4, 6), nn.Flatten()
    ),
}
EXAMPLE = (2, 3, 6, 6)


def randomised(model: nn.Module, *shape: int) -> nn.Module:
    """In float64, with random batch norms and biases, and with batch statistics of a few steps."""
    torch.manual_seed(0)
    model.double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
            if isinstance(getattr(module, "bias", None), Tensor):
                module.bias.normal_()
        for _ in range(3):
            model(torch.randn(8, *(shape or EXAMPLE)[1:], dtype=torch.float64))
    return model


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shapes(model: nn.Module) -> dict[str, tuple]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def zero(layer: Any, *rows: int, bias: float | None = None) -> None:
    with torch.no_grad():
        layer.weight[list(rows)] = 0
        if bias is not None:
            layer.bias[list(rows)] = bias


@torch.no_grad()
def difference(left: nn.Module, right: nn.Module, *shape: int) -> float:
    x = torch.randn(*(shape or (5, *EXAMPLE[1:])), dtype=torch.float64)
    modes = left.training, right.training
    expected, found = left.eval()(x), right.eval()(x)
    left.train(modes[0])
    right.train(modes[1])
    assert expected.abs().max() > 1e-3
    return float((found - expected).abs().max() / expected.abs().max())


def shrunk(model: nn.Module, *shape: int) -> nn.Module:
    """After the checks that hold for every model."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    example = torch.randn(*(shape or EXAMPLE), dtype=torch.float64)
    small = sk.shrink(model, example)
    assert difference(model, small, *shape) < 1e-10
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert small.training == model.training
    assert type(small) is type(model)
    again = sk.shrink(small, example)
    assert shapes(again) == shapes(small)
    for layer in prunable_layers(small).values():
        assert type(layer) in SPARSE
        assert layer.weight.shape[0] == getattr(layer, "out_channels", 0) or layer.weight.shape[0] == layer.out_features
    return small

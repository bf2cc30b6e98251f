"""Small networks, sparse or to be made so, and their training, for the tests of the engine."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.nn import SparseLayer


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 5))


def convnet() -> nn.Sequential:
    """For images 3 x 6 x 6: plain, strided, grouped, depthwise and 1x1 convolutions, batch norm, five classes."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2, padding_mode="reflect"),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding="same", groups=12),
        nn.Conv2d(12, 10, 1),
        nn.BatchNorm2d(10),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(90, 5),
    )


def layers(model: nn.Module) -> list[SparseLayer]:
    return [m for m in model.modules() if isinstance(m, SparseLayer)]


NETWORKS = {"linear": (network, (30,)), "conv": (convnet, (3, 6, 6))}


def start(
    name: str = "gse_grabo", seed: int = 0, kind: str = "linear", **options: object
) -> tuple[nn.Module, sk.Sparsifier, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    method = sk.methods.get(name)(sparsity=0.8, total_steps=60, every=3, **options)
    build, shape = NETWORKS[kind]
    model = sk.sparsify(build(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method)
    return model, optimizer, torch.randn(16, *shape), torch.randint(5, (16,))


def train(model: nn.Module, optimizer: sk.Sparsifier, x: torch.Tensor, y: torch.Tensor, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

"""A small network, sparse or to be made so, and its training, for the tests of the engine."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparsekern as sk


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 5))


def layers(model: nn.Module) -> list[sk.SparseLinear]:
    return [m for m in model.modules() if isinstance(m, sk.SparseLinear)]


def start(
    name: str = "gse_grabo", seed: int = 0, **options: object
) -> tuple[nn.Module, sk.Sparsifier, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    method = sk.methods.get(name)(sparsity=0.8, total_steps=60, every=3, **options)
    model = sk.sparsify(network(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method)
    return model, optimizer, torch.randn(16, 30), torch.randint(5, (16,))


def train(model: nn.Module, optimizer: sk.Sparsifier, x: torch.Tensor, y: torch.Tensor, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

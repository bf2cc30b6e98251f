"""No operation of methods on nonzeros, but for RigL's, makes a tensor of the size of a dense layer."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sparsekern as sk

GSE = ["gse_random", "gse_synflow", "gse_grabo", "gse_graest"]
OTHERS = {"set": {"every": 2}, "deepr": {"noise": 0.1}, "dsr": {"every": 1, "threshold": 0.05}}
SPARSITY = 127 / 128
SHAPES = {"linear": (256,), "conv": (96, 6, 6)}


class Sizes(TorchDispatchMode):
    """The bytes of the largest tensor that an operation returns."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().size() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        return result


def build(kind: str) -> nn.Module:
    if kind == "linear":
        return nn.Sequential(
            sk.SparseLinear(256, 256, sparsity=SPARSITY), nn.Tanh(), sk.SparseLinear(256, 256, sparsity=SPARSITY)
        )
    return nn.Sequential(
        sk.SparseConv2d(96, 96, 3, padding=1, sparsity=SPARSITY),
        nn.BatchNorm2d(96),
        nn.GELU(),
        sk.SparseConv2d(96, 96, 3, stride=2, sparsity=SPARSITY),
        nn.Flatten(),
        nn.AdaptiveAvgPool1d(10),
    )


def train(name: str, kind: str, batches: int | None) -> tuple[int, int]:
    """Bytes of the largest tensor of a run with two changes, and those of a dense layer's weight."""
    options: dict[str, Any] = OTHERS.get(name, {"every": 2}) | ({} if batches is None else {"batches": batches})
    method = sk.methods.get(name)(sparsity=SPARSITY, total_steps=20, **options)
    data = [(torch.randn(2, *SHAPES[kind]), torch.randint(10, (2,))) for _ in range(2)]
    with Sizes() as sizes:
        model = sk.sparsify(build(kind), method)
        inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = sk.Sparsifier(model, inner, method, batches=data, loss=cross_entropy)
        changes = 0
        for _ in range(5):
            optimizer.zero_grad()
            cross_entropy(model(data[0][0]), data[0][1]).backward()
            optimizer.step()
            changes += optimizer.rewired
    assert changes >= 2
    return sizes.largest, 4 * optimizer.sites[0].size


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", GSE)
def test_nothing_dense_is_made(name: str, kind: str, batches: int) -> None:
    largest, dense = train(name, kind, batches)
    assert largest < dense / 4


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", OTHERS)
def test_nothing_dense_is_made_by_chance_and_magnitude(name: str, kind: str) -> None:
    largest, dense = train(name, kind, None)
    assert largest < dense / 4


@pytest.mark.parametrize("kind", SHAPES)
def test_the_dense_gradient_of_rigl_would_be_seen(kind: str) -> None:
    largest, dense = train("rigl", kind, None)
    assert largest >= dense

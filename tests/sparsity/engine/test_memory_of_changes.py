"""Bytes that methods take at their start and in changes of pattern, beside those of the dense network."""

from functools import cache
from typing import Any

import pytest
import torch
from support.allocations import Bytes, counted
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.ops import extension

pytestmark = pytest.mark.skipif(extension is None, reason="the references take memory of their own")

WIDTH, STEPS, EPOCH = 512, 24, 4
# How much of the dense network's weights, gradients and momentum a method takes in its largest change of pattern.
PEAKS = {
    "gmp": 1.30,
    "oneshot_ft": 1.17,
    "magnitude_after": 1.17,
    "lottery": 1.46,
    "rewind": 1.46,
    "dpf": 1.35,
    "dpf_layerwise": 1.35,
    "granet": 1.35,
}
# The peak of a change over the larger of what is held before and after it, of methods that are never dense.
DYNAMIC = {"set": 1.9, "rigl": 1.8, "gse_grabo": 1.9}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)]
    return nn.Sequential(*hidden, nn.ReLU(), nn.Linear(WIDTH, 10))


@cache
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, WIDTH, generator=generator), torch.randint(10, (32,), generator=generator)


def train(model: nn.Module, optimizer: Any, steps: int, step: Any) -> list[bool]:
    changed = []
    for t in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch()[0]), batch()[1]).backward()
        with step():
            optimizer.step()
        changed.append(getattr(optimizer, "rewired", False) or getattr(optimizer, "reallocated", False))
        if t % EPOCH == EPOCH - 1 and isinstance(optimizer, sk.Sparsifier):
            optimizer.epoch_end(1.0)
    return changed


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


@cache
def dense_bytes() -> int:
    """Weights, gradients and momentum of the dense network."""
    batch()

    def run(step: Any) -> None:
        model = net()
        train(model, sgd(model), 2, step)

    return counted(run)[1].after


@cache
def run_of(name: str) -> tuple[list[Bytes], list[bool], int]:
    """Returns the bytes of every step, which of them change the pattern, and how many bytes a file holds at the
    start."""
    changed: list[bool] = []
    in_file = 0
    dense_bytes()

    def run(step: Any) -> None:
        nonlocal in_file
        method = sk.methods.get(name)(sparsity=0.9, total_steps=STEPS, steps_per_epoch=EPOCH)
        model = sk.sparsify(net(), method, generator=torch.Generator().manual_seed(2))
        optimizer = sk.Sparsifier(model, sgd(model), method, generator=torch.Generator().manual_seed(3))
        snapshot = optimizer.engine.now.snapshot
        if snapshot is not None:
            assert snapshot.in_file
            saved = [*snapshot.saved["parameters"].values()]
            saved += [tensor for layer in snapshot.saved["layers"].values() for tensor in layer["values"].values()]
            in_file = sum(tensor.nbytes for tensor in saved)
        changed.extend(train(model, optimizer, STEPS, step))

    return counted(run), changed, in_file


@pytest.mark.parametrize("name", sorted(PEAKS))
def test_a_method_that_begins_with_all_weights_begins_with_the_memory_of_the_dense_network(name: str) -> None:
    steps, changed, in_file = run_of(name)
    assert any(changed)
    assert steps[0].after - in_file <= 1.06 * dense_bytes()


@pytest.mark.parametrize("name", sorted(PEAKS))
def test_a_change_of_pattern_takes_little_beside_the_dense_network(name: str) -> None:
    steps, changed, in_file = run_of(name)
    peak = max(step.peak for step, change in zip(steps, changed, strict=True) if change)
    assert peak - in_file <= PEAKS[name] * dense_bytes()


@pytest.mark.parametrize("name", sorted(DYNAMIC))
def test_a_change_of_pattern_takes_less_than_the_weights_again(name: str) -> None:
    steps, changed, _ = run_of(name)
    own = [step.peak / max(step.before, step.after) for step, change in zip(steps, changed, strict=True) if change]
    assert own
    assert max(own) <= DYNAMIC[name]

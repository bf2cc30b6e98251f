"""Bytes that methods take at their start and in changes of pattern, beside those of the dense network."""

from functools import cache
from typing import Any

import pytest
import torch
from support.allocations import Bytes, counted
from torch import nn

import sparsekern as sk
from sparsekern.ops import extension

pytestmark = pytest.mark.skipif(extension is None, reason="the references take memory of their own")

WIDTH, STEPS, EPOCH = 512, 24, 4
METHODS: dict[str, dict[str, Any]] = {
    "gmp": {},
    "oneshot_ft": {},
    "magnitude_after": {},
    "lottery": {},
    "rewind": {"step": 1},
    "dpf": {},
    "granet": {},
}
MOST = 1.06  # of the dense network's weights, gradients and momentum
TRIMMED = 1.07  # where a tensor of half a layer is made to give back the memory of a whole one


def net() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)]
    return nn.Sequential(*hidden, nn.ReLU(), nn.Linear(WIDTH, 10))


def train(model: nn.Module, optimizer: Any, steps: int, step: Any) -> list[bool]:
    """Returns which steps change the pattern."""
    x, y, changed = torch.randn(32, WIDTH), torch.randint(10, (32,)), []
    for t in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        with step():
            optimizer.step()
        changed.append(getattr(optimizer, "rewired", False))
        if t % EPOCH == EPOCH - 1 and isinstance(optimizer, sk.Sparsifier):
            optimizer.epoch_end(1.0)
    return changed


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


@cache
def dense_bytes() -> int:
    """Weights, gradients and momentum of the dense network."""

    def run(step: Any) -> None:
        model = net()
        train(model, sgd(model), 2, step)

    return counted(run)[1].after


@cache
def run_of(name: str) -> tuple[Bytes, list[Bytes], list[bool], int]:
    """Returns the bytes of the conversion, those of every step, which of them change the pattern, and how many bytes
    lie in a file, which count as if they took memory."""
    changed: list[bool] = []
    filed = 0

    def run(step: Any) -> None:
        nonlocal filed
        method = sk.methods.get(name)(sparsity=0.9, total_steps=STEPS, steps_per_epoch=EPOCH, **METHODS[name])
        dense = net()
        with step():  # the kernel is given, since the index of another takes other memory
            model = sk.sparsify(dense, method, backend="dense")
        del dense
        optimizer = sk.Sparsifier(model, sgd(model), method)
        changed.extend(train(model, optimizer, STEPS, step))
        snapshot = optimizer.engine.now.snapshot
        if snapshot is not None:
            assert snapshot.in_file
            layers = snapshot.saved["layers"].values()
            filed = sum(tensor.nbytes for layer in layers for tensor in layer["values"].values())

    first, *steps = counted(run)
    return first, steps, changed, filed


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_begins_with_all_weights_begins_with_the_memory_of_the_dense_network(name: str) -> None:
    conversion, steps, _, filed = run_of(name)
    assert conversion.peak <= MOST * dense_bytes()
    assert steps[0].peak - filed <= MOST * dense_bytes()  # the file is there since the first step, if not before


@pytest.mark.parametrize("name", METHODS)
def test_a_change_of_pattern_takes_little_beside_the_dense_network(name: str) -> None:
    _, steps, changed, filed = run_of(name)
    assert any(changed)
    peak = max(step.peak for step, change in zip(steps, changed, strict=True) if change)
    assert peak - filed <= (TRIMMED if name == "gmp" else MOST) * dense_bytes()


def test_what_is_given_back_is_free_after_the_step() -> None:
    _, steps, _, _ = run_of("gmp")
    assert steps[-1].after <= 0.15 * dense_bytes()
    assert any(step.after < 0.6 * step.before for step in steps)

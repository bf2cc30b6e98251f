"""accelerate: a loop with accumulated gradients is the plain one; `save_state` and `load_state` of every method.
`make test-integrations` has it."""

from pathlib import Path

import pytest
import torch
from support.trajectories import EPOCH, NAMES, OPTIMIZERS, batches, make, network
from torch import nn

import sparsekern as sk

pytest.importorskip("accelerate")
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

loss_fn = nn.functional.cross_entropy


def prepared(name: str) -> tuple[nn.Module, sk.Sparsifier]:
    torch.manual_seed(3)
    data, method = batches("conv", 4), make(name)
    model = sk.sparsify(network("conv"), method, batches=data, loss=loss_fn)
    inner, generator = OPTIMIZERS["momentum"](model.parameters()), torch.Generator().manual_seed(2)
    return model, sk.Sparsifier(model, inner, method, batches=data, loss=loss_fn, generator=generator)


def trained(name: str, *, folder: Path, save: int | None = None, resume: bool = False) -> nn.Module:
    """A model after `STEPS` steps of two backward passes; its state is saved after `save` of them."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, sparsifier = prepared(name)
    model, optimizer = accelerator.prepare(model, sparsifier)
    if resume:
        accelerator.load_state(str(folder))
    for x, y in batches("conv")[sparsifier.steps :]:
        for half in (slice(0, 4), slice(4, 8)):
            with accelerator.accumulate(model):
                accelerator.backward(loss_fn(model(x[half]), y[half]))
                optimizer.step()
                optimizer.zero_grad()
        if sparsifier.steps % EPOCH == 0:
            sparsifier.epoch_end(1.0)
        if sparsifier.steps == save:
            empty = any(site.nnz == 0 for site in sparsifier.sites)  # accelerate takes empty tensors for shared ones
            accelerator.save_state(str(folder), safe_serialization=not empty)
    return model


def by_hand(name: str) -> nn.Module:
    model, optimizer = prepared(name)
    for x, y in batches("conv"):
        for half in (slice(0, 4), slice(4, 8)):
            (loss_fn(model(x[half]), y[half]) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
        if optimizer.steps % EPOCH == 0:
            optimizer.epoch_end(1.0)
    return model


def same(a: nn.Module, b: nn.Module) -> None:
    for (key, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert torch.equal(x, y), key


@pytest.mark.parametrize("name", NAMES)
def test_saves_and_loads_every_method(name: str, tmp_path: Path) -> None:
    whole = trained(name, folder=tmp_path, save=EPOCH + 2)
    same(whole, by_hand(name))
    same(whole, trained(name, folder=tmp_path, resume=True))

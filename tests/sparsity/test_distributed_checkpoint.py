"""Checkpoints of `torch.distributed.checkpoint`: written by some ranks, read by others, of any pattern."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support import ranks
from support.trajectories import OPTIMIZERS, batches, make, network, step

import sparsekern as sk
from sparsekern.integrations import checkpoint

METHODS = ("set", "gmp", "dpf", "optg")


def started(name: str, seed: int) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    method = make(name)
    model = sk.sparsify(network("linear"), method)
    return model, sk.Sparsifier(model, OPTIMIZERS["adam"](model.parameters()), method)


def written(path: Path) -> None:
    for name in METHODS:
        model, optimizer = started(name, 3)
        for batch in batches("linear")[:9]:
            step(model, optimizer, batch)
        checkpoint.save(path / name, model, optimizer)


def went_on(path: Path) -> dict[str, dict]:
    """What training from the checkpoints comes to, of models that began otherwise."""
    found = {}
    for name in METHODS:
        model, optimizer = started(name, 4)
        checkpoint.load(path / name, model, optimizer)
        for batch in batches("linear")[9:15]:
            step(model, optimizer, batch)
        found[name] = model.state_dict()
    return found


def test_other_numbers_of_ranks_go_on(tmp_path: Path) -> None:
    def write(rank: int) -> None:
        dist.init_process_group("gloo")
        written(tmp_path)

    def read(rank: int) -> None:
        dist.init_process_group("gloo")
        torch.save(went_on(tmp_path), tmp_path / f"{rank}.pt")

    ranks.run(2, write, tmp_path)
    ranks.run(3, read, tmp_path)
    alone = went_on(tmp_path)
    for name in METHODS:
        model, optimizer = started(name, 3)
        for batch in batches("linear")[:15]:
            step(model, optimizer, batch)
        for found in (alone, *(torch.load(tmp_path / f"{rank}.pt") for rank in range(3))):
            assert found[name].keys() == model.state_dict().keys()
            assert all(torch.equal(found[name][key], value) for key, value in model.state_dict().items())


def test_a_model_alone(tmp_path: Path) -> None:
    model, optimizer = started("set", 3)
    checkpoint.save(tmp_path / "model", model)
    with pytest.raises(ValueError, match="holds a model, but no state of a Sparsifier"):
        checkpoint.load(tmp_path / "model", model, optimizer)
    other = sk.sparsify(network("linear"), 0.7)
    checkpoint.load(tmp_path / "model", other)
    assert all(torch.equal(other.state_dict()[key], value) for key, value in model.state_dict().items())

"""Data-parallel ranks stay one network: equal patterns, values and optimizer state, whatever their data and seeds."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from support.trajectories import EPOCH, NAMES, STEPS, batches, make, network
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import sparsekern as sk

CHANGING = [name for name in NAMES if any(make(name).when.fires(step) for step in range(STEPS))]
# They replace Parameters, whose gradients a wrapper of before would not average.
REPLACED = ("gmp", "granet", "oneshot_ft", "magnitude_after", "lottery", "rewind", "dpf")
SCORED = ("snip", "grasp_abs", "synflow", "prospr", "prospr_channel")


def _rank(rank: int, path: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    data = batches("conv", 2 * STEPS)[rank::2]
    results = {name: _train(name, data, rank) for name in CHANGING}
    results["by hand"] = _by_hand(data, rank)
    torch.save({**results, **{name: _score(name, data, rank) for name in SCORED}}, f"{path}/{rank}.pt")
    dist.destroy_process_group()


def _train(name: str, data: list, rank: int) -> dict[str, Any]:
    """20 steps from weights of this rank on data of this rank."""
    torch.manual_seed(rank)
    method = make(name)
    model = sk.sparsify(network("conv"), method)
    wrapped = DistributedDataParallel(model)
    inner = torch.optim.SGD(wrapped.parameters(), lr=0.05, momentum=0.9)
    optimizer = sk.Sparsifier(wrapped, inner, method, batches=data[:2], loss=cross_entropy)
    changes = replaced = 0
    for x, y in data:
        optimizer.zero_grad()
        loss = cross_entropy(wrapped(x), y)
        loss.backward()
        optimizer.step()
        if optimizer.reallocated:
            wrapped = DistributedDataParallel(model)
        if optimizer.steps % EPOCH == 0:
            optimizer.epoch_end(loss.item())
        changes += optimizer.rewired
        replaced += optimizer.reallocated
    state = optimizer.state_dict()["optimizer"]["state"]
    return {"changes": changes, "replaced": replaced, "model": model.state_dict(), "optimizer": state}


def _by_hand(data: list, rank: int) -> dict[str, torch.Tensor]:
    """Layers that every rank made of a random pattern of its own."""
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Flatten(), sk.SparseLinear(data[0][0][0].numel(), 4, sparsity=0.9)).double()
    wrapped = DistributedDataParallel(model)
    method = sk.methods.set(sparsity=0.9, total_steps=STEPS, every=STEPS - 1)
    optimizer = sk.Sparsifier(wrapped, torch.optim.SGD(wrapped.parameters(), lr=0.05), method)
    for x, y in data[:3]:
        optimizer.zero_grad()
        cross_entropy(wrapped(x), y).backward()
        optimizer.step()
    return model.state_dict()


def _score(name: str, data: list, rank: int) -> dict[str, torch.Tensor]:
    """The pattern of a network with weights of this rank, scored on data of this rank."""
    torch.manual_seed(rank)
    model = sk.sparsify(network("conv"), make(name), batches=data[:4], loss=cross_entropy)
    return {key: tensor for key, tensor in model.state_dict().items() if key.endswith(("row_ptr", "col"))}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What two processes found, one pair for all methods."""
    path: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(_rank, args=(str(path),), nprocs=2)
    return [torch.load(path / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CHANGING)
def test_ranks_stay_one_network(name: str, ranks: list[dict]):
    first, second = (found[name] for found in ranks)
    assert (first["changes"], first["replaced"]) == (second["changes"], second["replaced"])
    assert first["changes"] >= 1
    assert first["replaced"] or name not in REPLACED
    assert first["model"].keys() == second["model"].keys()
    for key, tensor in first["model"].items():
        local = "running" in key  # statistics of batch norm are a rank's own until the next forward pass
        assert local or not isinstance(tensor, torch.Tensor) or torch.equal(tensor, second["model"][key]), key
    for i, state in first["optimizer"].items():
        assert all(torch.equal(value, second["optimizer"][i][key]) for key, value in state.items()), i


@pytest.mark.parametrize("name", SCORED)
def test_ranks_score_alike(name: str, ranks: list[dict]):
    first, second = (found[name] for found in ranks)
    assert first
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_layers_made_by_hand_get_the_pattern_of_the_first_rank(ranks: list[dict]):
    first, second = (found["by hand"] for found in ranks)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)

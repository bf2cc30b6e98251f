"""Data-parallel ranks are one network: what one process would have trained on all their data, and equal on all ranks
whatever their seeds."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support import ranks
from support.trajectories import EPOCH, NAMES, OPTIMIZERS, STEPS, batches, make, network
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import sparsekern as sk

CHANGING = [name for name in NAMES if any(make(name).when.fires(step) for step in range(STEPS))]
# They replace Parameters, which `DistributedDataParallel` is to follow.
REPLACED = ("gmp", "granet", "oneshot_ft", "magnitude_after", "lottery", "rewind", "dpf")
SCORED = ("snip", "grasp_abs", "synflow", "prospr", "prospr_channel")
# Each rank draws signs for samples of its own.
ESTIMATED = ("gse_graest", "gse_graest, two batches")


def trained(
    name: str, rank: int = 0, world: int = 1, kind: str = "linear", static: bool = False, **options: Any
) -> dict[str, Any]:
    """20 steps, of several ranks each on its part of every batch. The wrapper is made once."""
    method, data = make(name, **options), batches(kind)
    model = sk.sparsify(network(kind), method, batches=data[:4], loss=cross_entropy)
    wrapped = DistributedDataParallel(model, static_graph=static) if world > 1 else model
    parts = [(x[rank::world], y[rank::world]) for x, y in data]
    inner = OPTIMIZERS["momentum"](model.parameters())
    optimizer = sk.Sparsifier(model, inner, method, batches=parts[:2], loss=cross_entropy)
    changes = replaced = 0
    for x, y in parts:
        optimizer.zero_grad()
        loss = cross_entropy(wrapped(x), y)
        loss.backward()
        optimizer.step()
        if optimizer.steps % EPOCH == 0:
            optimizer.epoch_end(loss.item())
        changes += optimizer.rewired
        replaced += optimizer.reallocated
    state = optimizer.state_dict()["optimizer"]["state"]
    return {"changes": changes, "replaced": replaced, "model": model.state_dict(), "optimizer": state}


CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in NAMES}
CASES["gse_grabo, two batches"] = ("gse_grabo", {"batches": 2})
CASES |= {f"{name}, static graph": (name, {"static": True}) for name in (*REPLACED, "rigl")}
# One for each storage, and for each way to choose or to grow.
FOUR = ("random", "set", "rigl", "gse_grabo", "gse_synflow", "gmp", "magnitude_after", "dpf", "optg", "str", "snip")
FOUR = (*FOUR, "snr", "snr_frozen", "gse_grabo, two batches")


def work(rank: int, world: int, path: Path) -> None:
    dist.init_process_group("gloo")
    results = {}
    for case, (name, options) in CASES.items() if world == 2 else ((case, CASES[case]) for case in FOUR):
        torch.manual_seed(3)
        results[case] = trained(name, rank, world, **options)
    if world == 2:  # convolutions with batch norm, from weights of each rank's own
        for name in CHANGING:
            torch.manual_seed(rank)
            results[f"conv {name}"] = trained(name, rank, world, "conv")
        results["by hand"] = _by_hand(rank)
        results |= {f"score {name}": _score(name, rank) for name in SCORED}
    torch.save(results, path / f"{rank}.pt")
    dist.destroy_process_group()


def _by_hand(rank: int) -> dict[str, torch.Tensor]:
    """Layers that every rank made of a random pattern of its own."""
    torch.manual_seed(rank)
    data = batches("conv")
    model = nn.Sequential(nn.Flatten(), sk.SparseLinear(data[0][0][0].numel(), 4, sparsity=0.9)).double()
    wrapped = DistributedDataParallel(model)
    method = sk.methods.set(sparsity=0.9, total_steps=STEPS, every=STEPS - 1)
    optimizer = sk.Sparsifier(wrapped, torch.optim.SGD(wrapped.parameters(), lr=0.05), method)
    for x, y in data[rank:6:2]:
        optimizer.zero_grad()
        cross_entropy(wrapped(x), y).backward()
        optimizer.step()
    return model.state_dict()


def _score(name: str, rank: int) -> dict[str, torch.Tensor]:
    """The pattern of a network with weights of this rank, scored on data of this rank."""
    torch.manual_seed(rank)
    model = sk.sparsify(network("conv"), make(name), batches=batches("conv")[rank::2], loss=cross_entropy)
    return {key: tensor for key, tensor in model.state_dict().items() if key.endswith(("row_ptr", "col"))}


def _found(world: int, path: Path) -> list[dict]:
    ranks.run(world, lambda rank: work(rank, world, path), path)
    return [torch.load(path / f"{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What two processes found, one pair for all methods."""
    return _found(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return _found(4, tmp_path_factory.mktemp("four"))


@pytest.mark.parametrize("case", CASES)
def test_ranks_train_what_one_process_trains(case: str, two: list[dict], four: list[dict]) -> None:
    name, options = CASES[case]
    torch.manual_seed(3)
    alone = trained(name, **options)
    for found in (two, four) if case in FOUR else (two,):
        first = found[0][case]
        for other in found:
            assert _same(first, other[case])
        if case not in ESTIMATED:
            _assert_close(first, alone)


@pytest.mark.parametrize("name", CHANGING)
def test_ranks_stay_one_network(name: str, two: list[dict]) -> None:
    first, second = (found[f"conv {name}"] for found in two)
    assert first["changes"] >= 1
    assert first["replaced"] or name not in REPLACED
    assert _same(first, second)


def _same(first: dict, second: dict) -> bool:
    """Whether two ranks have the same, but for statistics of batch norm, which are a rank's own until the next forward
    pass."""
    tensors = [{k: v for k, v in each["model"].items() if "running" not in k} for each in (first, second)]
    counts = [(each["changes"], each["replaced"]) for each in (first, second)]
    return counts[0] == counts[1] and _equal(*tensors) and _equal(first["optimizer"], second["optimizer"])


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def _assert_close(ours: dict, alone: dict) -> None:
    assert (ours["changes"], ours["replaced"]) == (alone["changes"], alone["replaced"])
    for key, tensor in alone["model"].items():
        torch.testing.assert_close(ours["model"][key], tensor, rtol=1e-9, atol=1e-12, msg=key)
    for i, state in alone["optimizer"].items():
        for key, value in state.items():
            torch.testing.assert_close(ours["optimizer"][i][key], value, rtol=1e-9, atol=1e-12, msg=f"{i} {key}")


@pytest.mark.parametrize("name", SCORED)
def test_ranks_score_alike(name: str, two: list[dict]) -> None:
    first, second = (found[f"score {name}"] for found in two)
    assert first
    assert _equal(first, second)


def test_layers_made_by_hand_get_the_pattern_of_the_first_rank(two: list[dict]) -> None:
    first, second = (found["by hand"] for found in two)
    assert _equal(first, second)

"""Data-parallel ranks choose one pattern, whatever their data and their seeds."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import sparsekern as sk


def _rank(rank: int, path: str, name: str, batches: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)
    torch.set_num_threads(1)
    method = sk.methods.get(name)(sparsity=0.8, total_steps=20, every=2, stop=1.0, batches=batches)
    body = nn.Sequential(nn.Unflatten(1, (1, 4, 5)), nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten())
    model = sk.sparsify(nn.Sequential(body, nn.Linear(120, 30), nn.ReLU(), nn.Linear(30, 4)), method)
    wrapped = DistributedDataParallel(model)
    inner = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    data = [(torch.randn(8 + rank, 20), torch.randint(4, (8 + rank,))) for _ in range(2)]
    optimizer = sk.Sparsifier(wrapped, inner, method, batches=data, loss=cross_entropy)
    changes = 0
    for _ in range(10):
        optimizer.zero_grad()
        cross_entropy(wrapped(torch.randn(8, 20)), torch.randint(4, (8,))).backward()
        optimizer.step()
        changes += optimizer.rewired
    starts = {name: _scored(name) for name in ("snip", "grasp_abs", "synflow", "prospr", "prospr_channel")}
    torch.save((changes, model.state_dict(), starts), f"{path}/{rank}.pt")
    dist.destroy_process_group()


def _scored(name: str) -> dict[str, torch.Tensor]:
    """The pattern of a network with weights of this rank, scored on data of this rank."""
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
    batches = [(torch.randn(8, 20), torch.randint(4, (8,))) for _ in range(4)]
    sk.sparsify(model, sk.methods.get(name)(sparsity=0.5), batches=batches, loss=cross_entropy)
    return {key: tensor for key, tensor in model.state_dict().items() if key.endswith(("row_ptr", "col"))}


@pytest.mark.parametrize(("name", "batches"), [("gse_grabo", 1), ("gse_synflow", 1), ("gse_graest", 2)])
def test_ranks_agree(name: str, batches: int, tmp_path) -> None:
    mp.spawn(_rank, args=(str(tmp_path), name, batches), nprocs=2)
    (changes, first, starts), (_, second, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert changes >= 3
    assert all(torch.equal(first[key], second[key]) for key in first)
    for start, pattern in starts.items():
        assert pattern.keys() == others[start].keys(), start
        assert all(torch.equal(pattern[key], others[start][key]) for key in pattern), start

"""Counts the bytes that data-parallel ranks send each other in a training step, and those that each of them keeps.

python -m benchmarks.ranks                  writes results/ranks-vgg16.json; then python -m benchmarks.tables
python -m benchmarks.ranks --model mlp      of another network

Two processes train with gloo. Every tensor that a collective operation gets is counted, in DistributedDataParallel by
its communication hook. What a rank keeps does not depend on the number of ranks; of what fully_shard splits, the sum
over the ranks does not.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import sparsekern as sk
from sparsekern import models
from sparsekern.bench.report import header, write
from sparsekern.nn.memory import COLUMNS
from sparsekern.shards import is_sharded, nbytes

# Of each method: the options by which its pattern changes in step 2 of 4, as far as it is not the usual one.
METHODS: dict[str, dict[str, Any]] = {
    "dense": {},
    "random": {},
    "set": {"every": 2},
    "rigl": {"every": 2},
    "gse_grabo": {"every": 2, "stop": 1.0},
    "dpf": {"every": 2, "finetune": 0},
    "snr": {"every": 2, "burn_in": 0},
    "snr_frozen": {"every": 2, "burn_in": 0},
}
RESULTS = Path(__file__).parent / "results"
SENT = ("all_reduce", "broadcast")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.ranks", description=__doc__.splitlines()[0])  # type: ignore
    parser.add_argument("--model", default="vgg16", help="(default vgg16, for images of 3 x 32 x 32)")
    parser.add_argument("--sparsity", type=float, default=0.95, help="(default 0.95)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="(default: benchmarks/results)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        spawn(_rank, (scratch, arguments.model, arguments.sparsity), nprocs=2)
        found = torch.load(Path(scratch, "found.pt"))
    settings = {"model": arguments.model, "sparsity": arguments.sparsity, "ranks": 2}
    rows = [{"method": name, **row} for name, row in found.items()]
    path = arguments.out / f"ranks-{arguments.model}.json"
    write(path, header("ranks", 1) | settings | {"rows": rows})
    print(path)
    return 0


def _rank(rank: int, scratch: str, model: str, sparsity: float) -> None:
    dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    counted = Counted()
    found = {name: _measured(name, model, sparsity, counted) | _sharded(name, model, sparsity) for name in METHODS}
    if rank == 0:
        torch.save(found, Path(scratch, "found.pt"))
    dist.destroy_process_group()


class Counted:
    """Counts the bytes that collective operations get."""

    def __init__(self) -> None:
        self.bytes = 0
        for name in SENT:
            setattr(dist, name, self._counting(getattr(dist, name)))

    def _counting(self, send: Any) -> Any:
        def counting(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            self.bytes += tensor.nbytes
            return send(tensor, *arguments, **options)

        return counting


def _measured(name: str, model: str, sparsity: float, counted: Counted) -> dict[str, int]:
    """Returns the bytes reduced in a step, those that a change of pattern adds, and those that a rank keeps."""
    method, net = _started(name, model, sparsity)
    optimizer = sk.Sparsifier(net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9), method)
    wrapped = DistributedDataParallel(net, broadcast_buffers=False)
    wrapped.register_comm_hook(None, allreduce_hook)
    steps = []
    for _ in range(4):
        before = counted.bytes
        _step(wrapped, optimizer)
        steps.append(counted.bytes - before)
    usual, most = min(steps), max(steps)
    total = sk.memory_report(net, optimizer).total
    buckets = sum(p.nbytes for p in net.parameters())  # of DistributedDataParallel, which copies gradients into them
    kept = sum(total[column] for column in COLUMNS) + buckets
    return {"step": usual, "change": most - usual, "kept": kept}


def _sharded(name: str, model: str, sparsity: float) -> dict[str, int]:
    """Returns the bytes that all ranks keep together of what fully_shard splits, and those that every rank keeps
    besides."""
    method, net = _started(name, model, sparsity)
    fully_shard(net)
    optimizer = sk.Sparsifier(net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9), method)
    for _ in range(4):
        _step(net, optimizer)
    total = sk.memory_report(net, optimizer).total
    own = 0
    for parameter in net.parameters():  # with its gradient
        state = [tensor for tensor in optimizer.state[parameter].values() if is_sharded(tensor)]
        own += 2 * nbytes(parameter) + sum(map(nbytes, state))
    numbers = torch.tensor([own, sum(total[column] for column in COLUMNS) - own])
    dist.all_reduce(numbers)
    return {"split": int(numbers[0]), "whole": int(numbers[1]) // 2}


def _started(name: str, model: str, sparsity: float) -> tuple[sk.Method, torch.nn.Module]:
    torch.manual_seed(0)
    options = {"total_steps": 8, "steps_per_epoch": 4, **METHODS[name]}
    method = sk.methods.get(name)(sparsity=None if name == "dense" else sparsity, **options)
    return method, sk.sparsify(models.build(model, (3, 32, 32), 10), method)


def _step(net: torch.nn.Module, optimizer: sk.Sparsifier) -> None:
    optimizer.zero_grad()
    cross_entropy(net(torch.randn(2, 3, 32, 32)), torch.randint(10, (2,))).backward()
    optimizer.step()


if __name__ == "__main__":
    main()

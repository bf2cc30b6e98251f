"""Run as a script: prints the peak resident bytes that one workload adds to the imported package."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import sparsekern as sk


def peak() -> int:
    """High-water mark of this process's resident memory, in bytes."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(match.group(1)) * 1024 if match else 0


def huge_layer() -> None:
    """65,536 x 65,536 at 99.9 %, where dense weight, gradient and momentum take over 50 GB."""
    size = 65536
    method = sk.methods.gse_grabo(sparsity=0.999, total_steps=4, every=1, stop=1.0)
    model = sk.sparsify(sk.SparseLinear(size, size, sparsity=0.999), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method)
    rewired = 0
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(64, size, requires_grad=True)).square().mean().backward()
        optimizer.step()
        rewired += optimizer.rewired
    if not rewired or sum(site.nnz for site in optimizer.sites) != 4294968:
        raise SystemExit(f"expected a change of pattern and 4294968 weights, got {optimizer.report()}")


def huge_convolution(name: str = "gse_grabo") -> None:
    """4096 x 4096 x 3 x 3 at 99.9 %, where dense weight, gradient and momentum take 1.8 GB."""
    method = sk.methods.get(name)(sparsity=0.999, total_steps=4, every=1, stop=1.0)
    model = sk.sparsify(sk.SparseConv2d(4096, 4096, 3, padding=1, sparsity=0.999), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method)
    rewired = 0
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 4096, 4, 4, requires_grad=True)).square().mean().backward()
        optimizer.step()
        rewired += optimizer.rewired
    if not rewired or sum(site.nnz for site in optimizer.sites) != 150995:
        raise SystemExit(f"expected a change of pattern and 150995 weights, got {optimizer.report()}")


def huge_topology(shuffled: bool | None = None) -> None:
    """The pattern of that layer, drawn at random or from coordinates, which the caller holds already."""
    size, nnz = 65536, 4294967
    if shuffled is None:
        topology = sk.Topology.random((size, size), nnz)
    else:
        stride = 2654435761  # odd: its multiples modulo 2**32 are distinct, and in no order
        coordinates = torch.arange(nnz) * stride % size**2 if shuffled else torch.arange(nnz) * 999
        topology = sk.Topology.from_coordinates(coordinates, (size, size))
    if topology.nnz != nnz:
        raise SystemExit(f"expected {nnz} weights, got {topology.nnz}")


WORKLOADS: dict[str, Callable[[], None]] = {
    "huge_layer": huge_layer,
    "huge_convolution": huge_convolution,
    "gse_synflow": lambda: huge_convolution("gse_synflow"),
    "gse_graest": lambda: huge_convolution("gse_graest"),
    "random": huge_topology,
    "ascending": lambda: huge_topology(False),
    "shuffled": lambda: huge_topology(True),
}

if __name__ == "__main__":
    torch.set_num_threads(2)
    # What torch loads at the first optimizer and the first backward pass belongs to the imported package.
    warm = torch.nn.Linear(8, 8)
    warm(torch.randn(8, 8)).square().sum().backward()
    torch.optim.SGD(warm.parameters(), lr=0.1).step()
    before = peak()
    WORKLOADS[sys.argv[1]]()
    print(peak() - before)

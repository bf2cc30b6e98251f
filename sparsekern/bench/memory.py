"""`sparsekern bench memory`: the memory of training steps, line by line and at its peak.

Each variant is measured in a process of its own, which prints its row.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import SparseLinear
from .linear_peers import PEERS
from .memory_lines import count
from .network_step import BATCH, Pattern, Step, Training
from .peak_memory import held, median, peak, reset_peak
from .report import card, header
from .timing import seconds

VARIANTS = ("dense", "masked", "sparsekern")
MLP, NETWORKS = "mlp", ("vgg16", "resnet20")
WIDTH, LAYERS, SPARSITY, STEPS = 4096, 3, 0.98, 3
SPARSITIES = (0.5, 0.8, 0.9, 0.95, SPARSITY, 0.99)


def run(
    *,
    threads: int | None = None,
    quick: bool = False,
    device: str = "cpu",
    progress: Callable[[str], Any] = lambda text: None,
    save: Callable[[dict], Any] = lambda report: None,
) -> dict:
    """Three linear layers 4096 x 4096 with ReLU between, then VGG-16 and ResNet-20 on 32 x 32 images: SGD with
    momentum, batch 128, static patterns. A row for dense, masked at 98 %, and sparse at several sparsities.

    `bytes` is the peak above the imported packages, resident or, on a GPU, allocated there; of the linear layers at
    98 % the median of a few processes. `ratio_to_dense` is that of the bytes, `ms` the median of few steps,
    indicative only. `lines` are bytes counted from tensors, see `memory_lines`.
    """
    threads = torch.get_num_threads() if threads is None else threads
    report = header("memory", threads, [peer for peer in PEERS if peer.name in VARIANTS], device) | {"rows": []}
    cells = [("dense", 0.0), ("masked", SPARSITY), *(("sparsekern", s) for s in SPARSITIES)]
    if quick:
        cells = [("dense", 0.0), ("masked", SPARSITY), ("sparsekern", SPARSITY)]
    for network in (MLP,) if quick else (MLP, *NETWORKS):
        width = 512 if quick else WIDTH
        dense = 0
        for variant, sparsity in cells:
            command = (network, variant, str(sparsity), str(width), str(threads), device)
            processes = 3 if network == MLP and sparsity in (0, SPARSITY) else 1
            row = {
                "case": f"mlp of {LAYERS} layers {width}x{width}, SGD with momentum" if network == MLP else network,
                "impl": variant,
                "device": card(device),
                "dtype": "float32",
                "sparsity": sparsity,
                "batch": BATCH,
                **median("sparsekern.bench.memory", *command, processes=processes),
                "threads": threads,
            }
            dense = dense or row["bytes"]
            report["rows"].append(row | {"ratio_to_dense": round(row["bytes"] / dense, 4)})
            save(report)
            progress(f"{network} {variant} {sparsity:.0%}: {row['bytes'] / 2**20:.1f} MiB")
    return report


class _Masked(nn.Linear):
    """Dense storage, dense products and a bool mask; `torch.nn.utils.prune` takes more, its mask is fp32."""

    mask: Tensor

    def __init__(self, width: int, sparsity: float) -> None:
        super().__init__(width, width)
        self.register_buffer("mask", torch.empty(width, width, dtype=torch.bool).bernoulli_(1 - sparsity))

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight * self.mask, self.bias)


class Mlp(Training):
    """Training steps of linear layers with ReLU between, by SGD with momentum."""

    def __init__(self, variant: str, sparsity: float, width: int, device: str) -> None:
        modules = [module for _ in range(LAYERS) for module in (_layer(variant, sparsity, width), nn.ReLU())]
        self.network = nn.Sequential(*modules[:-1]).to(device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9)
        self.x, self.y = torch.randn(BATCH, width).to(device), torch.randint(width, (BATCH,)).to(device)
        self.device = torch.device(device)

    def loss(self) -> Tensor:
        return nn.functional.cross_entropy(self.network(self.x), self.y)


def _layer(variant: str, sparsity: float, width: int) -> nn.Module:
    if variant == "sparsekern":
        return SparseLinear(width, width, sparsity=sparsity)
    return _Masked(width, sparsity) if variant == "masked" else nn.Linear(width, width)


def train(network: str, variant: str, sparsity: float, width: int, threads: int, device: str) -> dict:
    """Returns `bytes`, `ms` and, unless masked, `lines` of a few training steps in this process.

    Args:
        width: of the MLP.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)

    def make(small: bool) -> Training:
        if network == MLP:
            return Mlp(variant, sparsity, 64 if small else width, device)
        return Step(network, variant, Pattern(sparsity=sparsity), 8 if small else BATCH, 1 / 8 if small else 1, device)

    make(small=True)()  # torch imports and loads more at the first step
    gc.collect()
    base = held(device)
    step = make(small=False)
    reset_peak(device)
    times = [seconds(step) for _ in range(STEPS)]
    found: dict[str, Any] = {"ms": round(statistics.median(times) * 1e3, 3), "bytes": peak(device) - base}
    if variant != "masked":  # which keeps masks and masked weights, too
        found["lines"] = count(step.network, step.optimizer, step.loss)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("network")
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("sparsity", type=float)
    parser.add_argument("width", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("device")
    print(json.dumps(train(**vars(parser.parse_args()))))

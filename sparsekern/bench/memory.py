"""`sparsekern bench memory`: peak memory of training steps, each variant in a process of its own."""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import SparseLinear
from .linear_peers import PEERS
from .peak_memory import held, median, peak, reset_peak
from .report import card, header
from .timing import synchronize

VARIANTS = ("dense", "masked", "sparsekern")
WIDTH, LAYERS, BATCH, SPARSITY, STEPS = 4096, 3, 128, 0.98, 3


def run(
    *,
    threads: int | None = None,
    quick: bool = False,
    device: str = "cpu",
    progress: Callable[[str], Any] = lambda text: None,
) -> dict:
    """Three linear layers 4096 x 4096, ReLU between, SGD with momentum, the pattern static: a row per variant.

    `bytes` is the peak above the imported packages, resident or, on a GPU, allocated there, the median of a few
    processes; `ratio_to_dense` that of the bytes; `ms` the median of few steps, indicative only.
    """
    threads = torch.get_num_threads() if threads is None else threads
    width = 512 if quick else WIDTH
    report = header("memory", threads, [peer for peer in PEERS if peer.name in VARIANTS], device) | {"rows": []}
    for variant in VARIANTS:
        row = {
            "case": f"mlp of {LAYERS} layers {width}x{width}, SGD with momentum",
            "impl": variant,
            "device": card(device),
            "dtype": "float32",
            "sparsity": 0.0 if variant == "dense" else SPARSITY,
            "batch": BATCH,
            **median("sparsekern.bench.memory", variant, str(width), str(threads), device),
            "threads": threads,
        }
        row["ratio_to_dense"] = round(
            row["bytes"] / (report["rows"][0]["bytes"] if report["rows"] else row["bytes"]), 4
        )
        report["rows"].append(row)
        progress(f"{variant}: {row['bytes'] / 2**20:.1f} MiB")
    return report


class _Masked(nn.Linear):
    """Dense storage, dense products and a bool mask; `torch.nn.utils.prune` takes more, its mask is fp32."""

    mask: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.register_buffer("mask", torch.empty(width, width, dtype=torch.bool).bernoulli_(1 - SPARSITY))

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight * self.mask, self.bias)


def _layer(variant: str, width: int) -> nn.Module:
    if variant == "sparsekern":
        return SparseLinear(width, width, sparsity=SPARSITY)
    return _Masked(width) if variant == "masked" else nn.Linear(width, width)


def train(variant: str, width: int, threads: int, device: str) -> dict:
    """`bytes` and `ms` of a few training steps in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    _steps(variant, 64, 1, device)  # torch imports and loads more at the first step
    gc.collect()
    base = held(device)
    times = _steps(variant, width, STEPS, device)
    return {"ms": round(statistics.median(times) * 1e3, 3), "bytes": peak(device) - base}


def _steps(variant: str, width: int, steps: int, device: str) -> list[float]:
    """Seconds of each step of a new model; the peak starts with the first of them."""
    modules = [module for _ in range(LAYERS) for module in (_layer(variant, width), nn.ReLU())]
    model = nn.Sequential(*modules[:-1]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, target = torch.randn(BATCH, width).to(device), torch.randint(width, (BATCH,)).to(device)
    reset_peak(device)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("width", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("device")
    arguments = parser.parse_args()
    print(json.dumps(train(arguments.variant, arguments.width, arguments.threads, arguments.device)))

"""Fine-tuning a small transformer that was pruned once by magnitude, with its zeros kept, beside dense fine-tuning.

`python -m benchmarks.tuning` trains `gpt-mini` on sources of Python's standard library (or takes the run that lies in
--run), prunes it, and fine-tunes every copy on other sources, a step of one after a step of another, so that their
times compare. Writes `benchmarks/results/fine-tuning.json`, from which `python -m benchmarks.tables` makes the table of
docs/fine-tuning.md.
"""

import argparse
import copy
import math
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import sparsekern as sk
from benchmarks.papers.language import COMMON, LIBRARY, SOURCES
from sparsekern import models
from sparsekern.bench.report import header, write
from sparsekern.data import Data, load
from sparsekern.nn import prunable_layers
from sparsekern.nn.memory import COLUMNS
from sparsekern.training import configure, restore, run_folder, train
from sparsekern.training.files import folder as make_folder
from sparsekern.training.loop import prepared
from sparsekern.training.trained import trained

RESULTS = Path(__file__).parent / "results" / "fine-tuning.json"
SPARSITIES = (0.5, 0.7)
BATCH, RATE = COMMON["batch_size"], 3e-4


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.tuning", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/fine-tuning"), metavar="DIR", help="the dense network")
    parser.add_argument("--text", default=str(LIBRARY / "asyncio"), metavar="PATH", help="what it is fine-tuned on")
    parser.add_argument("--steps", type=int, default=150, metavar="N", help="of fine-tuning")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    arguments = parser.parse_args(argv)
    config = configure(**COMMON, method="dense", data="text", data_dir=SOURCES, threads=arguments.threads)
    network = dense(arguments.run, config)
    data = load(config | {"data_dir": arguments.text})
    rows = tune(network, data, arguments.steps)
    write(arguments.out, {**header("fine-tuning", arguments.threads), "steps": arguments.steps, "rows": rows})
    print(arguments.out)
    return 0


def dense(folder: Path, config: dict) -> nn.Module:
    """Returns the network of the run in a folder, which is begun, or finished, if need be."""
    if not run_folder.finished(folder):
        run = restore(folder) if run_folder.holds_run(folder) else prepared(config)
        print(f"training the dense network in {folder}", file=sys.stderr, flush=True)
        train(run, make_folder(folder))
    torch.set_num_threads(config["threads"])
    return trained(folder).model.train()


def pruned(network: nn.Module, sparsity: float) -> nn.Module:
    """Returns a copy that has lost the smallest weights of each layer, and keeps its zeros."""
    network = copy.deepcopy(network)
    for layer in prunable_layers(network, models.DENSE["gpt-mini"]).values():
        prune.l1_unstructured(layer, "weight", amount=sparsity)
        prune.remove(layer, "weight")
    return sk.sparsify(network, masks="nonzero")


def tune(network: nn.Module, data: Data, steps: int) -> list[dict]:
    """Fine-tunes the dense network and its pruned copies by AdamW, all on the same batches."""
    networks = {0.0: copy.deepcopy(network)} | {sparsity: pruned(network, sparsity) for sparsity in SPARSITIES}
    optimizers = {at: torch.optim.AdamW(one.parameters(), lr=RATE, weight_decay=0.0) for at, one in networks.items()}
    before = {at: bits(one, data) for at, one in networks.items()}
    seconds: dict[float, list[float]] = {at: [] for at in networks}
    generator = torch.Generator().manual_seed(0)
    while (done := len(seconds[0.0])) < steps:
        rows = torch.randperm(len(data.train), generator=generator)[: BATCH * (steps - done)]
        for x, y in data.train.batches(rows, BATCH, generator):
            for at, one in networks.items():
                start = time.perf_counter()
                optimizers[at].zero_grad()
                loss(one(x), y).backward()
                optimizers[at].step()
                seconds[at].append(time.perf_counter() - start)
    found = []
    for at, one in networks.items():
        total = sk.memory_report(one, optimizers[at]).total
        found.append(
            {
                "sparsity": at,
                "bits_before": before[at],
                "bits_after": bits(one, data),
                "ms": 1e3 * median(seconds[at]),
                "bytes": sum(total[column] for column in COLUMNS),
            }
        )
    return found


def loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


@torch.no_grad()
def bits(network: nn.Module, data: Data) -> float:
    """Returns the bits that a byte of the test text takes."""
    rows = torch.arange(len(data.test))
    losses = [float(loss(network(x), y)) * len(y) for x, y in data.test.batches(rows, BATCH, torch.Generator())]
    return sum(losses) / len(rows) / math.log(2)


if __name__ == "__main__":
    sys.exit(main())

"""Measures what a change of pattern costs, in training steps: by it methods space their changes in short runs.

python -m benchmarks.changes                writes results/<machine>/changes.json, in a few minutes
python -m benchmarks.changes --threads 1    with another number of threads than torch's own

Every method changes its pattern in every fourth step, as much as at its first change. A cost is the time of four steps
above that of four steps of the kind that stands between changes, divided by one of these; so it holds what a change
leaves to the step after it. Medians of cycles, in which the steps are neighbours.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import sparsekern as sk
from benchmarks.cpu import RESULTS
from sparsekern import models
from sparsekern.bench.machines import family
from sparsekern.bench.report import header, write

CYCLE = 4
NETWORKS = {"mlp": (1, 8, 8), "lenet300": (1, 28, 28), "resnet20": (3, 32, 32)}
METHODS: dict[str, dict[str, Any]] = {
    "set": {},
    "rigl": {},
    "gse_random": {"stop": 1.0},
    "gse_grabo": {"stop": 1.0},
    "gse_synflow": {"stop": 1.0},
    "gse_graest": {"stop": 1.0},
    "granet": {"initial": 0.9},
    "dsr": {},
    "snfs": {},
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.changes", description=__doc__.splitlines()[0])  # type: ignore
    parser.add_argument("--sparsity", type=float, default=0.9, help="(default 0.9)")
    parser.add_argument("--batch-size", type=int, default=128, help="(default 128)")
    parser.add_argument("--cycles", type=int, default=15, help="timed cycles of each method (default 15)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: torch's own)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="(default: benchmarks/results)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    report = header("changes", arguments.threads)
    rows = []
    for network in NETWORKS:
        for name in METHODS:
            rows.append(measured(network, name, arguments.sparsity, arguments.batch_size, arguments.cycles))
            print(
                "{model:9} {method:12} {step_ms:8.2f} ms a step, a change costs {cost:.2f} of them".format(**rows[-1])
            )
    path = arguments.out / f"{family()}-{arguments.threads}t" / "changes.json"
    settings = {"sparsity": arguments.sparsity, "batch": arguments.batch_size}
    write(path, report | settings | {"rows": rows})
    print(path)
    return 0


def measured(network: str, name: str, sparsity: float, batch: int, cycles: int) -> dict[str, Any]:
    """Returns the milliseconds of a step, of one with a change, and what the change costs in steps."""
    torch.manual_seed(0)
    options = {"every": CYCLE, **METHODS[name]}
    method = sk.methods.get(name)(sparsity, 100_000, 10, **options)
    model = sk.sparsify(models.build(network, NETWORKS[network], 10), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), method)
    x, y = torch.randn(batch, *NETWORKS[network]), torch.randint(10, (batch,))

    def step() -> tuple[float, bool]:
        start = time.perf_counter()
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        return time.perf_counter() - start, optimizer.rewired

    for _ in range(2 * CYCLE + 1):  # kernels are chosen, and a change begins the first timed cycle
        step()
    while not step()[1]:
        pass
    plain, changed, costs = [], [], []
    for _ in range(cycles):
        times = [step() for _ in range(CYCLE)]
        usual = statistics.median(seconds for seconds, rewired in times[1:] if not rewired)
        plain.append(usual)
        changed.append(times[-1][0])
        costs.append((sum(seconds for seconds, _ in times) - CYCLE * usual) / usual)
    return {
        "model": network,
        "method": name,
        "step_ms": round(1e3 * statistics.median(plain), 3),
        "change_ms": round(1e3 * statistics.median(changed), 3),
        "cost": round(statistics.median(costs), 2),
    }


if __name__ == "__main__":
    main()

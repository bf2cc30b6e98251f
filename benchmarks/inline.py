"""Figures within sentences.

`<!-- = step 1024x1024 128 masked 0.9 -->1.20 on AMD Zen 4<!-- /= -->` in a page is a figure of the committed results.
The first word of the mark is a function of `FIGURES`, the other words are its arguments. Where several machines have
such results, each is named.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean

from benchmarks.goals import STEP
from benchmarks.lookup import Rows, mlp, number, ratio, ratios
from benchmarks.papers import ranking
from sparsekern.bench.memory import LAYERS, WIDTH
from sparsekern.topology import nnz_at

RESULTS = Path(__file__).parent / "results"
MARK = re.compile(r"<!-- = (.+?) -->.*?<!-- /= -->", re.DOTALL)
GRID = (0.3, 0.4, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
Machines = dict[str, dict[str, Rows]]  # the rows of each benchmark by the name of the processor


def put(text: str, machines: Machines) -> str:
    """Returns the text with the figures at its marks."""
    return MARK.sub(lambda mark: f"<!-- = {mark[1]} -->{figure(mark[1], machines)}<!-- /= -->", text)


def figure(words: str, machines: Machines) -> str:
    """Returns the figure that a mark asks for.

    Raises:
        ValueError: no machine has it.
    """
    name, *arguments = words.split()
    if name in RUNS:
        return RUNS[name](*arguments)
    found = {title: FIGURES[name](rows, *arguments) for title, rows in machines.items()}
    known = [f"{value} on {title}" for title, value in found.items() if value]
    if not known:
        raise ValueError(f"no results have the figure {words!r}")
    return " and ".join(filter(None, [", ".join(known[:-1]), known[-1]]))


def _layers(rows: dict[str, Rows], shape: str) -> Rows:
    return rows.get("convolutions" if shape.startswith("conv") else "kernels", [])


def _time(
    pass_: str, rows: dict[str, Rows], shape: str, batch: str, impl: str, sparsity: str, dtype: str = "float32"
) -> str | None:
    """The training step of a layer, or its forward pass, divided by the dense layer's."""
    return number(ratio(_layers(rows, shape), shape, int(batch), float(sparsity), impl, dtype, pass_))


def crossover(rows: dict[str, Rows], shape: str, batch: str, dtype: str = "float32") -> str | None:
    """The sparsity from which on the training step takes less time than the dense layer's."""
    *cells, last = ratios(_layers(rows, shape), shape, int(batch), GRID, dtype=dtype) if _layers(rows, shape) else [""]
    return last if any(cells) else None


def crossovers(rows: dict[str, Rows]) -> str | None:
    """The lowest and the highest sparsity from which on linear layers take less time than dense ones."""
    found = [each for shape, batch in STEP if (each := crossover(rows, shape, str(batch)))]
    below = [each for each in found if each.startswith("below")]
    numbers = [int(each.removesuffix(" %")) for each in found if each[0].isdigit()]
    if not numbers:
        return below[0] if below else None
    return f"{below[0].removesuffix(' %') if below else min(numbers)} to {max(numbers)} %"


def slowest(rows: dict[str, Rows]) -> str | None:
    """The longest training step of a linear layer at any sparsity, divided by the dense layer's."""
    own = (row for row in rows.get("kernels", []) if row["impl"] == "sparsekern" and row["dtype"] == "float32")
    cases = {(f"step {shape}", batch) for shape, batch in STEP}
    found = [row["ratio_to_dense"] for row in own if (row["case"], row["batch"]) in cases]
    return number(max(found)) if found else None


def peak(rows: dict[str, Rows], impl: str) -> str | None:
    """The peak memory of training steps of the memory benchmark, divided by the dense network's."""
    held = {row["impl"]: row["bytes"] for row in mlp(rows.get("memory", []))}
    return number(held[impl] / held["dense"]) if held else None


def index(rows: dict[str, Rows], sparsity: str) -> str | None:
    """The bytes of index for each nonzero of the linear layers of the memory benchmark."""
    nonzeros = LAYERS * nnz_at(float(sparsity), WIDTH**2)
    own = [row for row in rows.get("memory", []) if row["case"].startswith("mlp") and row["impl"] == "sparsekern"]
    found = {row["sparsity"]: row["lines"]["indices"] for row in own if "lines" in row}
    return f"{number(found[float(sparsity)] / nonzeros)} bytes" if found else None


def wide(rows: dict[str, Rows], width: str) -> str | None:
    """The memory of training steps of a square layer with 2^20 nonzeros."""
    own = [
        row for row in rows.get("scaling", []) if row["axis"] == "width, 2^20 nonzeros" and row["impl"] == "sparsekern"
    ]
    return next((f"{row['bytes'] / 2**20:.0f} MiB" for row in own if row["size"] == int(width)), None)


def network(rows: dict[str, Rows], model: str, impl: str, key: str = "ms") -> str | None:
    """The training step of a network, or with the key `bytes` its peak memory, divided by the dense network's."""
    own = [row for row in rows.get("train", []) if row["case"].startswith(f"step {model}/")]
    found = {row["impl"]: row[key] for row in own if row["pattern"] in ("", "uniform")}
    return number(found[impl] / found["dense"]) if found else None


def threshold(rows: dict[str, Rows], impl: str) -> str | None:
    """The milliseconds of the k-th largest magnitude."""
    return next((f"{row['ms']:.0f} ms" for row in rows.get("threshold", []) if row["impl"] == impl), None)


def moment(rows: dict[str, Rows], layer: str, impl: str, base: str, pass_: str = "step") -> str | None:
    """The time of a layer with the second moment of its gradients, divided by that of another implementation."""
    found = {row["impl"]: row["ms"] for row in rows.get("moments", []) if row["case"] == f"{pass_} {layer}"}
    return number(found[impl] / found[base]) if found else None


def method(name: str, sparsity: str, what: str) -> str:
    """Returns a result of a method in `results/paper-baselines`: its `accuracy` in %, or its `milliseconds` or `bytes`
    divided by the dense network's."""
    runs = json.loads((RESULTS / "paper-baselines" / "results.json").read_text())["runs"]
    own = [run for run in runs if run["what"] == name and run["at"] == (float(sparsity) or None)]
    if what == "accuracy":
        return f"{100 * fmean(run['test_accuracy'] for run in own):.2f} %"
    dense = [run for run in runs if run["what"] == "dense"]
    return number(ranking.costs(own)[what] / ranking.costs(dense)[what])


def text_peak(name: str) -> str:
    """Returns the mean peak memory of the processes that trained by a method in `results/paper-gpt`."""
    runs = json.loads((RESULTS / "paper-gpt" / "results.json").read_text())["runs"]
    own = [run["peak_memory_bytes"] for run in runs if (run["group"], run["what"]) == ("steps", name)]
    return f"{fmean(own) / 2**20:,.0f} MiB"


FIGURES: dict[str, Callable[..., str | None]] = {
    "step": partial(_time, "step"),
    "forward": partial(_time, "forward"),
    "crossover": crossover,
    "crossovers": crossovers,
    "slowest": slowest,
    "peak": peak,
    "index": index,
    "wide": wide,
    "network": network,
    "threshold": threshold,
    "moment": moment,
}
RUNS: dict[str, Callable[..., str]] = {"method": method, "text-peak": text_peak}

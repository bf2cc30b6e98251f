"""Makes a card's entry in the table by which layers choose their kernel, of what was measured on it:

python -m benchmarks.cards benchmarks/results/gpu-<card>-<date>.json

Writes sparsekern/nn/cards.json and, if the kernels were tuned, sparsekern/ops/triton/configurations.json. The entries
of other cards stay.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from sparsekern.bench.linear import GPU_DTYPES
from sparsekern.text import columns
from sparsekern.training.files import write_text

PACKAGE = Path(__file__).parents[1] / "sparsekern"
PRODUCTS = ("forward", "input_gradient", "weight_gradient")
LINEAR = re.compile(r"(?P<cols>\d+)x(?P<rows>\d+)")
CONVOLUTION = re.compile(r"conv(?P<kernel>\d+)x\d+(s(?P<stride>\d+))?/(?P<in>\d+)-(?P<out>\d+)/(?P<size>\d+)x\d+")
BREAK_EVENS = {"bits_below": "sparsekern-bits", "masked_below": "sparsekern-fused"}

Times = dict[tuple[str, str], float | None]  # of a product and an implementation


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, metavar="RESULTS.json", help="what `make gpu-bench` wrote")
    parser.add_argument("--out", type=Path, default=PACKAGE, metavar="DIR", help="instead of sparsekern")
    arguments = parser.parse_args(argv)
    try:
        report = json.loads(arguments.results.read_text())
        card, rows, quick = report["card"], report["rows"], report["quick"]
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"{arguments.results} holds no results of a GPU: {error}")
    if card == "cpu" or quick:
        parser.error(f"{arguments.results} was only a trial, on the CPU or of small sizes")
    found = entry(rows)
    if not any(found.values()):
        parser.error(f"{arguments.results} has no layer of which everything was measured; `make gpu-bench` goes on")
    add(arguments.out / "nn" / "cards.json", card, found)
    if report.get("configurations"):
        add(arguments.out / "ops" / "triton" / "configurations.json", card, report["configurations"])
    for lines in found.values():
        if lines:
            print(columns([[*lines[0]], *([str(value) for value in line.values()] for line in lines)]))
    return 0


def entry(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The entry of the card that the rows were measured on: a line for every layer of which all products were measured
    in all dtypes. A layer does not know in which one it will compute: of their break-evens the smaller one counts."""
    measured: dict[tuple[str, int], dict[str, dict[float, Times]]] = {}
    for row in rows:
        product, _, shape = row["case"].partition(" ")
        if row["benchmark"] in ("kernels", "convolutions") and product in PRODUCTS:
            of_layer = measured.setdefault((shape, row["batch"]), {}).setdefault(row["dtype"], {})
            times = of_layer.setdefault(round(1 - row["sparsity"], 6), {})
            times[product, row["impl"]] = row["ms"]
    found: dict[str, list[dict[str, Any]]] = {"linear": [], "convolutions": []}
    for (shape, batch), by_dtype in measured.items():
        evens = {
            name: [break_even(by_dtype.get(dtype, {}), impl) for dtype in GPU_DTYPES]
            for name, impl in BREAK_EVENS.items()
        }
        known = {name: min(values) for name, values in evens.items() if None not in values}  # type: ignore[type-var]
        if len(known) == len(evens):
            kind = "linear" if LINEAR.fullmatch(shape) else "convolutions"
            found[kind].append({**_layer(shape), "batch": batch, **known})
    return found


def break_even(times: dict[float, Times], impl: str) -> float | None:
    """The largest measured density up to which `impl` takes less time than the expanded weight for the three products
    together, 0 if at none; None if nothing was measured completely."""
    below, complete = 0.0, False
    for density in sorted(times):
        ours, expanded = ([times[density].get((op, name)) for op in PRODUCTS] for name in (impl, "sparsekern-expanded"))
        if None in expanded or any((op, impl) not in times[density] for op in PRODUCTS):
            continue
        complete = True
        if None in ours or sum(ours) >= sum(expanded):  # type: ignore[arg-type]
            break
        below = density
    return below if complete else None


def _layer(shape: str) -> dict[str, int]:
    """The columns of a line, of "1024x512" or "conv3x3s2/64-128/32x32"."""
    if found := LINEAR.fullmatch(shape):
        return {name: int(found[name]) for name in ("rows", "cols")}
    if found := CONVOLUTION.fullmatch(shape):
        return {name: int(found[name] or 1) for name in ("out", "in", "kernel", "stride", "size")}
    raise ValueError(f"expected a layer as the benchmark names it, got {shape!r}")


def add(path: Path, card: str, found: dict[str, Any]) -> None:
    """Writes the entry of a card into a table, whole or not at all; a line of numbers a line."""
    entries = (json.loads(path.read_text()) if path.exists() else {}) | {card: found}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(sorted(entries.items())), indent=1)
    write_text(path, re.sub(r"\{([^{}]*)\}", lambda match: "{" + " ".join(match[1].split()) + "}", text) + "\n")


if __name__ == "__main__":
    sys.exit(main())

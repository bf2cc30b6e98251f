"""Costs by one size at a time, and the search for the largest network."""

import json
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsekern.bench import largest, markdown, scaling
from sparsekern.bench.largest import GIB, GRAIN, KINDS
from sparsekern.bench.scaling import Axis, Size, Step
from sparsekern.cli import main

BASE = Size(32, 100, 8)
AXES = [
    Axis("nonzeros", "nonzeros", (BASE, Size(32, 200, 8), Size(32, 400, 8)), (1, 1), None),
    Axis("depth", "depth", (BASE, Size(32, 100, 8, 2)), (1, 1), (1, 1)),
]


def test_a_row_for_each_network_and_a_slope_for_each_curve() -> None:
    states = []
    report = scaling.run(threads=1, seconds=0.002, only=AXES, save=lambda r: states.append(len(r["rows"])))
    rows, fits = report["rows"], report["fits"]
    assert states == [6, 10]
    assert [(row["axis"], row["size"], row["impl"]) for row in rows[4:8]] == [
        ("nonzeros", 400, "dense"),
        ("nonzeros", 400, "sparsekern"),
        ("depth", 1, "dense"),
        ("depth", 1, "sparsekern"),
    ]
    assert all(row["ms"] > 0 and row["n"] >= 3 for row in rows)
    assert [(fit["axis"], fit["impl"], fit["cost"]) for fit in fits] == [
        ("nonzeros", "sparsekern", "ms"),
        ("nonzeros", "sparsekern", "bytes"),
        *(("depth", impl, cost) for impl in ("sparsekern", "dense") for cost in ("ms", "bytes")),
    ]
    weights, biases, batch = 32 * 32, 32, 8
    assert rows[0]["bytes"] == 4 * (3 * (weights + biases) + batch * 32)  # weights, gradients, momentum; the input
    one, two = (row["bytes"] for row in rows[6:] if row["impl"] == "dense")
    assert fits[-1]["slope"] == pytest.approx(log(two / one) / log(2), abs=1e-3)
    assert "depth | dense ms" in markdown.render(report)


def test_the_axes_reach_what_is_promised() -> None:
    axes = {axis.name: axis.sizes for axis in scaling.axes(2)}
    assert axes["width, 2^20 nonzeros"][-1] == Size(262_144, 2**20, 64, threads=2)
    assert [size.batch for size in axes["batch"]] == [2**i for i in range(13)]
    assert [size.threads for size in axes["threads"]] == [1, 2]
    for name, sizes in axes.items():
        varied = {field for size in sizes for field in vars(size) if getattr(size, field) != getattr(sizes[0], field)}
        assert len(varied) == 1 + (name == "width, 90 % sparse")
        assert all(size.nonzeros <= size.width**2 for size in sizes)


@pytest.mark.parametrize("wrong", ["output", "input gradient", "weight gradient"])
def test_wrong_results_are_found(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(BASE, "sparsekern")
    step.check()
    layer: Any = step.network[0]
    if wrong == "output":
        layer.register_forward_hook(lambda module, inputs, output: torch.add(output, 0.01))
    else:
        right = torch.autograd.grad
        which = int(wrong == "weight gradient")

        def grad(*arguments: object) -> tuple:
            found = list(right(*arguments))  # type: ignore[call-overload]
            found[which] = 1.01 * found[which]
            return tuple(found)

        monkeypatch.setattr(torch.autograd, "grad", grad)
    with pytest.raises(RuntimeError, match="wrong: relative error"):
        step.check()


def test_words_that_no_axis_has(capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "scaling", "--threads", "1", "--case", "colour"]) == 2
    assert "known: 'nonzeros'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("base", [0.1, 0.5])
def test_the_search_ends_just_below_the_memory(kind: largest.Kind, base: float) -> None:
    """The peak is made up: what is fixed, a power of the width, and activations that grow with the width itself."""
    tried = []

    def peak(width: int) -> int | None:
        tried.append(width)
        used = base * GIB + 2.5 * kind.guess * width**kind.power + 40_000 * width
        return None if used > 1.25 * 2 * GIB else int(used)

    width = largest.search(peak, 2 * GIB, kind)
    used = peak(width)
    assert used is not None
    assert 0.94 * 2 * GIB <= used <= 2 * GIB
    assert width % GRAIN == 0
    assert len(tried) <= 9


def test_a_memory_in_which_nothing_trains() -> None:
    with pytest.raises(RuntimeError, match="nothing trains in 1 GiB"):
        largest.search(lambda width: 2 * GIB, GIB, KINDS[0])


def test_a_trial_counts_what_training_takes_and_a_refused_one_says_why() -> None:
    found = largest.trial(KINDS[0], 1024, 1, GIB)
    weights = 3 * 4 * largest.DEPTH * 1024**2  # with gradients and momentum
    assert weights < found["bytes"] < 2 * weights
    assert found["ms"] > 0
    refused = largest.trial(KINDS[0], 40_000, 1, 2**20)  # 6 GB of weights
    assert "bytes" not in refused
    assert refused["missing"].startswith("failed")


def test_a_row_for_each_memory_and_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def trial(kind: largest.Kind, width: int, threads: int, memory: int) -> dict:
        return {"ms": 1.0, "bytes": int(0.3 * GIB + kind.guess * width**kind.power)}

    monkeypatch.setattr(largest, "trial", trial)
    path = tmp_path / "largest.json"
    assert main(["bench", "largest", "--threads", "1", "--gib", "0.5,1", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [(row["kind"], row["gib"]) for row in rows] == [(kind.name, gib) for kind in KINDS for gib in (0.5, 1)]
    assert all(0.95 * row["gib"] * GIB <= row["bytes"] <= row["gib"] * GIB for row in rows)
    assert main(["bench", "largest", "--gib", "1000000"]) == 1
    assert main(["bench", "memory", "--gib", "1"]) == 2

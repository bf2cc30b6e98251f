"""The experiments on a text: their trials, measured steps, tables and pictures, and fine-tuning."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks import run_tables, tuning
from benchmarks.papers import language, losses, measure
from sparsekern import data, models
from sparsekern.training import configure


def run(what: str, at: float | None, group: str = "steps", seed: int = 0, **values: object) -> dict:
    found = {
        "group": group, "what": what, "at": at, "seed": seed, "model": "gpt-mini", "steps": 200, "milliseconds": 400.0,
        "cpu_seconds": [0.3, 0.5], "peak_weight_bytes": 2**20, "peak_memory_bytes": 2**29, "test_bits_per_byte": 2.0,
        "layers": [{"name": "a", "sparsity": at or 0.0}, {"name": "b", "sparsity": 1.0 if what == "gmp" else 0.5}],
    }  # fmt: skip
    return found | values


def test_steps_are_measured_over_whole_trainings_that_take_turns(tmp_path: Path) -> None:
    flags = {"data": "digits", "model": "lenet300", "width": 0.1, "epochs": 3, "batch_size": 16, "threads": 1}
    kinds = {
        ("steps", "dense", None): configure(**flags, method="dense"),
        ("steps", "gmp", 0.9): configure(**flags, method="gmp", sparsity=0.9),
    }
    measure.measure(kinds, tmp_path / "times.json")
    rows = json.loads((tmp_path / "times.json").read_text())["rows"]
    assert [len(row["epochs"]) for row in rows] == [3, 3]
    times = measure.read(tmp_path / "times.json")
    assert times == {kind: pytest.approx(sum(row["epochs"]) / 3) for kind, row in zip(kinds, rows, strict=True)}
    assert measure.read(tmp_path / "none.json") == {}


def test_trials_of_equal_time_follow_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"group": "steps", "what": "dense", "at": None, "ms": 600}]
    rows += [{"group": "steps", "what": "rigl", "at": 0.9, "ms": 250}]
    (tmp_path / "times.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(language, "TIMES", tmp_path / "times.json")
    timed = [trial for trial in language.EXPERIMENT.runs(1) if trial.group == "time"]
    assert [trial.name for trial in timed] == ["time-rigl-0.9-seed1"]
    assert timed[0].flags["epochs"] == round(language.COMMON["epochs"] * 600 / 250)
    assert not timed[0].measured


def test_tables_and_picture(tmp_path: Path) -> None:
    runs = [run("dense", None), run("dense", None, seed=1, test_bits_per_byte=2.1)]
    runs += [run("rigl", at, test_bits_per_byte=2 + at, milliseconds=200.0) for at in (0.8, 0.9)]
    runs += [run("rigl", 0.9, "time", test_bits_per_byte=2.5, steps=400), run("gmp", 0.9)]
    text = "\n".join(losses.tables(runs))
    assert "| bits per byte after as many steps | 0 % | 80 % | 90 % |" in text
    assert "| dense | 2.050 ± 0.071 |  |  |" in text
    assert "| `rigl` |  | 2.800 | 2.900 |" in text
    assert "| `gmp` |  |  | 2.000 |" in text
    assert "| `rigl` |  | 200 | 200 |" in text
    assert "| `rigl` |  | 400 |" in text.partition("steps in this time")[2]
    assert text.endswith("A layer lost all of its weights: gmp at 90 %.")
    assert losses.draw(tmp_path, runs).read_bytes().startswith(b"\x89PNG")
    assert losses.seconds(runs[2]) == 40.0


def test_pruned_copies_are_tuned_with_their_zeros(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abcdefgh" * 400)
    text = data.load({"data": "text", "data_dir": str(tmp_path / "text"), "context": 8})
    torch.manual_seed(0)
    network = models.build("gpt-mini", (8,), 256, width=0.125)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    rows = tuning.tune(network, text, steps=12)
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
    assert [row["sparsity"] for row in rows] == [0.0, 0.5, 0.7]
    assert all(row["bits_after"] < row["bits_before"] for row in rows)
    assert rows[0]["bytes"] > rows[1]["bytes"] > rows[2]["bytes"]
    ((x, y),) = text.test.batches(torch.arange(len(text.test)), 100, torch.Generator())
    bits = cross_entropy(network(x).flatten(0, 1), y.flatten()) / torch.tensor(2.0).log()
    assert rows[0]["bits_before"] == pytest.approx(float(bits), rel=1e-4)
    sparse = tuning.pruned(network, 0.7)
    up = sparse.get_submodule("blocks.1.up")
    assert up.topology.nnz == 32 * 128 - round(0.7 * 32 * 128)
    assert type(sparse.get_submodule("head")) is torch.nn.Linear
    assert "| 70 % zeros, kept |" in run_tables.tuning(rows)

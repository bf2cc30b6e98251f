"""The command that measures the table of a family: it stops in time, goes on, and measures anew."""

import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks import crossovers as command
from sparsekern.bench import calibrate
from sparsekern.nn.crossovers import parsed

TINY = calibrate.Effort(
    linear=[((48, 32, 8), "float32")],
    convolutions=[((16, 8, 3, 2, 6, 4), "float32")],
    densities=(0.1, 0.5),
    conv_densities=(0.1, 0.5),
    budget=0.005,
)


def test_a_table_is_measured_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "TABLES", tmp_path)
    monkeypatch.setattr(calibrate, "run", partial(calibrate.run, effort=TINY))

    def measure(*flags: str) -> tuple[int, dict]:
        status = command.main(["family", "--threads", "1", *flags])
        return status, json.loads((tmp_path / "family.json").read_text())

    status, first = measure("--seconds", "0")
    assert (status, len(first["linear"]), len(first["convolutions"])) == (1, 1, 0)
    status, whole = measure()
    assert (status, whole["linear"], len(whole["convolutions"])) == (0, first["linear"], 1)
    assert parsed(whole, "family").processor.name == whole["cpu"]
    assert measure() == (0, whole)
    status, again = measure("--again", "--seconds", "0")
    assert (status, len(again["convolutions"])) == (1, 0)

"""The papers' experiments: which runs they consist of, and what is written of those that are finished."""

import json
from math import prod
from pathlib import Path

import pytest

from benchmarks.papers import __main__ as papers
from benchmarks.papers import results
from benchmarks.papers.experiment import Experiment, Trial
from benchmarks.papers.experiments import EXPERIMENTS, constant_weights
from sparsekern import models, training
from sparsekern.topology import nnz_at


def sizes(width: int) -> int:
    model = models.build("lenet300", (1, 28, 28), 10, float(width))
    return sum(p.numel() for p in model.parameters() if p.dim() == 2)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_run_has_a_name_of_its_own_and_known_flags(name: str):
    experiment = EXPERIMENTS[name]
    runs = [run for seed in experiment.seeds for run in experiment.runs(seed)]
    assert len({run.name for run in runs}) == len(runs)
    for run in runs:
        assert {**experiment.common, **run.flags}.keys() <= training.DEFAULTS.keys()
        assert run.group in experiment.axis


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_wider_networks_keep_exactly_as_many_weights(width: int):
    assert nnz_at(constant_weights(width), sizes(width)) == nnz_at(0.9, sizes(1)) == 26_620


def tiny(seed: int) -> list[Trial]:
    flags = {"model": "lenet300", "width": 0.1, "batch_size": 128, "threads": 1}
    sparse = {**flags, "method": "set", "sparsity": 0.8, "set": [("every", 3)]}
    return [
        Trial("digits", "dense", None, seed, {**flags, "method": "dense"}),
        Trial("digits", "set", 0.8, seed, sparse),
    ]


def test_an_experiment_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    experiment = Experiment(
        "Somebody et al.", {"digits": "sparsity"}, "digits", {"lr": 0.1, "epochs": 2}, tiny, (0, 1), "As is."
    )
    monkeypatch.setitem(EXPERIMENTS, "grabo", experiment)
    first, second, out = tmp_path / "a", tmp_path / "b", tmp_path / "out"
    flags = ["grabo", "--out", str(out), "--jobs", "2", "--epochs", "1"]
    assert papers.main([*flags, "--runs", str(first), "--only", "*-dense-seed0"]) == 0
    found = json.loads((out / "results.json").read_text())
    assert found["missing"] == ["digits-set-0.8-seed0", "digits-dense-seed1", "digits-set-0.8-seed1"]
    assert "Not yet trained (3)" in (out / "table.md").read_text()
    capsys.readouterr()
    assert papers.main([*flags, "--runs", str(second), "--runs", str(first), "--note", "A note."]) == 0
    assert "1 of 4 runs are finished already" in capsys.readouterr().out
    assert sorted(path.name for path in second.iterdir()) == sorted(found["missing"])
    text = (out / "table.md").read_text()
    assert "A note." in text
    assert "Not yet trained" not in text
    size = prod((64, 30)) + prod((30, 10)) + prod((10, 10))
    assert f"| weights |  | {nnz_at(0.8, size):,} |" in text
    found = json.loads((out / "results.json").read_text())
    assert [(run["what"], run["at"], run["seed"]) for run in found["runs"]] == [
        ("dense", None, 0), ("set", 0.8, 0), ("dense", None, 1), ("set", 0.8, 1),
    ]  # fmt: skip
    assert found["common"] == {"lr": 0.1, "epochs": 1}
    assert 0 < found["hours"] < 0.1
    assert not (out / "figure.png").exists()  # of a single sparsity


def run(what: str, at: float | None, seed: int, accuracy: float, sparsity: float = 0.9) -> dict:
    return {
        "group": "", "what": what, "at": at, "seed": seed, "test_accuracy": accuracy, "sparsity": sparsity,
        "model": "m", "data": "d", "epochs": 1, "nnz": 7,
    }  # fmt: skip


def test_table_tells_the_sparsity_that_emerged_and_the_seeds_that_lack():
    runs = [run("snr", None, 0, 0.9, 0.7), run("snr", None, 1, 0.92, 0.72), run("dpf", 0.9, 0, 0.8)]
    lines = results.table(runs, "sparsity")
    assert lines[0] == "| m on d, 1 epochs; sparsity | as it is | 90 % |"
    assert lines[2:] == [
        "| snr | 91.00 ± 1.41 at 71.0 % ± 1.4 |  |", "| dpf |  | 80.00 (1 seed) |", "| weights |  | 7 |",
    ]  # fmt: skip
    assert " at " not in results.table(runs, "width")[2]


def test_change_weighs_layers_by_their_size():
    layers = [{"shape": [2, 10], "iou_last": 0.5}, {"shape": [8, 10], "iou_last": 1.0}]
    assert results.change(layers) == pytest.approx(0.1)
    assert results.change([]) == 0


def test_images_from_a_folder_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(results.run_folder, "finished", lambda path: True)
    experiment = EXPERIMENTS["cifar"]
    (tmp_path / "dense-seed0").mkdir()
    summary = dict.fromkeys(results.SUMMARY, 0.5) | {"data": "imagefolder", "train_seconds": 1, "threads": 1}
    summary |= {"method": "dense", "model": "resnet20", "backend": "auto", "sparsity_target": None}
    summary |= dict.fromkeys(("nnz", "prunable", "epochs", "seed", "peak_memory_bytes"), 1)
    (tmp_path / "dense-seed0" / "summary.json").write_text(json.dumps(summary))
    epoch = {"test_accuracy": 0.5, "sparsity": 0.0, "layers": []}
    (tmp_path / "dense-seed0" / "metrics.jsonl").write_text(json.dumps(epoch) + "\n")
    dense = next(iter(experiment.runs(0)))
    text = results.write(tmp_path / "out", experiment, {dense: tmp_path / dense.name})
    assert "compare with each other only" in text
    assert json.loads((tmp_path / "out" / "results.json").read_text())["runs"][0]["accuracy"] == [0.5]


def test_wider_residual_networks_keep_exactly_as_many_weights():
    trials = list(EXPERIMENTS["width"].runs(0))
    assert [trial.at for trial in trials] == [1, 2, 2, 4, 4]
    for trial in trials[1:]:
        model = models.build("resnet20", (3, 32, 32), 10, trial.flags["width"])
        size = sum(p.numel() for p in model.parameters() if p.dim() > 1)
        assert (
            nnz_at(trial.flags["sparsity"], size)
            == 9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2) + 640
        )

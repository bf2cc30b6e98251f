"""`--log tensorboard`: what TensorBoard reads back is what the run's folder has. `make test-integrations` has it."""

import json
from pathlib import Path

import pytest
from support.runs import SMALL

from sparsekern.cli import main

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RUN = ["train", *SMALL, "--method", "rigl", "--log", "tensorboard"]


def drawn(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_every_epoch_once(tmp_path: Path) -> None:
    assert main([*RUN, "--epochs", "2", "--out", str(tmp_path)]) == 0
    assert main(["train", "--resume", str(tmp_path), "--epochs", "3"]) == 0
    epochs = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = drawn(tmp_path)
    for key in ("train_loss", "test_accuracy", "sparsity", "lr"):
        assert found[key] == [(e["step"], pytest.approx(e[key], rel=1e-6)) for e in epochs]
    layers = [layer["name"] for layer in epochs[0]["layers"]]
    for layer in layers:
        assert [step for step, _ in found[f"flips/{layer}"]] == [e["step"] for e in epochs]


def test_another_run_in_the_folder_begins_anew(tmp_path: Path) -> None:
    assert main([*RUN, "--epochs", "2", "--out", str(tmp_path)]) == 0
    assert main([*RUN, "--epochs", "1", "--out", str(tmp_path), "--overwrite"]) == 0
    assert len(drawn(tmp_path)["train_loss"]) == 1

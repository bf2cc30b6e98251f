"""`--log`: what a logger is given, and what a missing or failing one says. TensorBoard itself: `tests/integrations`."""

import errno
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.runs import SMALL

from sparsekern.cli import main
from sparsekern.training import loggers

RUN = ["train", *SMALL, "--method", "rigl"]


class WandB(ModuleType):
    """As much of the package as is used."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.util, self.made, self.runs, self.lines = self, 0, [], []

    def generate_id(self) -> str:
        self.made += 1
        return f"id{self.made}"

    def init(self, **options: Any) -> "WandB":
        self.runs.append(options)
        return self

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.lines.append((step, numbers))

    def finish(self) -> None:
        self.lines.append("finished")


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> WandB:
    fake = WandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_every_epoch_is_given_once_and_a_resumed_run_goes_on(wandb: WandB, tmp_path: Path) -> None:
    assert main([*RUN, "--log", "wandb", "--epochs", "2", "--out", str(tmp_path)]) == 0
    assert main(["train", "--resume", str(tmp_path), "--epochs", "3"]) == 0
    epochs = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line for line in wandb.lines if line != "finished"] == [(e["step"], loggers.numbers(e)) for e in epochs]
    assert wandb.lines.count("finished") == 2
    first, second = wandb.runs
    assert first["id"] == second["id"] == "id1"
    assert (first["resume"], first["dir"], first["name"]) == ("allow", str(tmp_path), tmp_path.name)
    assert first["config"]["method"] == "rigl"
    given = loggers.numbers(epochs[0])
    assert given["test_accuracy"] == epochs[0]["test_accuracy"]
    assert {f"sparsity/{layer['name']}" for layer in epochs[0]["layers"]} < given.keys()
    assert all(isinstance(value, int | float) for value in given.values())


def test_another_run_in_a_folder_is_another_there(wandb: WandB, tmp_path: Path) -> None:
    for overwrite in ([], ["--overwrite"]):
        assert main([*RUN, "--log", "wandb", "--epochs", "1", "--out", str(tmp_path), *overwrite]) == 0
    assert [run["id"] for run in wandb.runs] == ["id1", "id2"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_names_the_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert main([*RUN, "--log", name, "--out", str(tmp_path / "run")]) == 2
    assert f"this needs {name}; install it with: pip install 'sparsekern[{name}]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_one_line(
    wandb: WandB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(wandb, "log", full)
    assert main([*RUN, "--log", "wandb", "--epochs", "2", "--out", str(tmp_path)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"sparsekern: cannot write to {tmp_path}: No space left on device"
    assert main(["train", "--resume", str(tmp_path)]) == 1  # from the first epoch's checkpoint
    monkeypatch.undo()

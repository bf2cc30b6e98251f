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
from sparsekern.errors import RunError
from sparsekern.training import loggers

RUN = ["train", *SMALL, "--method", "rigl"]


class WandB(ModuleType):
    """As much of the package as is used."""

    Error = LookupError
    step = 0  # the first that a run takes

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[dict[str, Any]] = []
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.codes: list[int] = []

    def init(self, **options: Any) -> "WandB":
        self.runs.append(options)
        return self

    def log(self, numbers: dict[str, float], step: int, commit: bool) -> None:
        assert commit
        self.lines.append((step, numbers))
        self.step = step + 1

    def finish(self, exit_code: int) -> None:
        self.codes.append(exit_code)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> WandB:
    fake = WandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_every_epoch_is_given_once_and_a_resumed_run_goes_on(wandb: WandB, tmp_path: Path) -> None:
    assert main([*RUN, "--log", "wandb", "--epochs", "2", "--out", str(tmp_path)]) == 0
    assert main(["train", "--resume", str(tmp_path), "--epochs", "3"]) == 0
    epochs = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert wandb.lines == [(e["step"], loggers.numbers(e)) for e in epochs]
    assert wandb.codes == [0, 0]
    first, second = wandb.runs
    assert first["id"] == second["id"]
    assert (first["resume"], first["dir"], first["name"]) == ("allow", str(tmp_path), tmp_path.name)
    assert first["config"]["method"] == "rigl"
    given = loggers.numbers(epochs[0])
    assert given["test_accuracy"] == epochs[0]["test_accuracy"]
    assert {f"sparsity/{layer['name']}" for layer in epochs[0]["layers"]} < given.keys()
    assert all(isinstance(value, int | float) for value in given.values())


def test_another_run_in_a_folder_is_another_there(wandb: WandB, tmp_path: Path) -> None:
    for overwrite in ([], ["--overwrite"]):
        assert main([*RUN, "--log", "wandb", "--epochs", "1", "--out", str(tmp_path), *overwrite]) == 0
    first, second = (run["id"] for run in wandb.runs)
    assert first != second


def test_epochs_without_a_log_are_drawn_later(wandb: WandB, tmp_path: Path) -> None:
    assert main([*RUN, "--epochs", "2", "--out", str(tmp_path)]) == 0
    assert main(["train", "--resume", str(tmp_path), "--epochs", "3", "--log", "wandb"]) == 0
    epochs = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert wandb.lines == [(e["step"], loggers.numbers(e)) for e in epochs]


@pytest.mark.parametrize(("error", "status", "code"), [(KeyboardInterrupt, 130, 255), (RunError("no"), 1, 1)])
def test_how_a_run_ended_is_told(
    error: BaseException, status: int, code: int, wandb: WandB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(wandb, "log", stop)
    assert main([*RUN, "--log", "wandb", "--epochs", "2", "--out", str(tmp_path)]) == status
    assert wandb.codes == [code]


def test_no_account_is_one_line(
    wandb: WandB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def init(**_: Any) -> None:
        raise wandb.Error("No API key configured.\nRun wandb login")

    monkeypatch.setattr(wandb, "init", init)
    assert main([*RUN, "--log", "wandb", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "sparsekern: W&B: No API key configured."


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

    with monkeypatch.context() as patch:
        patch.setattr(wandb, "log", full)
        assert main([*RUN, "--log", "wandb", "--epochs", "2", "--out", str(tmp_path)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"sparsekern: cannot write to {tmp_path}: No space left on device"
    assert main(["train", "--resume", str(tmp_path)]) == 0  # draws the epoch that was not
    assert len(wandb.lines) == 2

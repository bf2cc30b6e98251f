"""The folder of a run: whose it is, when it is finished, and what a full disk and killed processes leave in it."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
import torch
from support.runs import SMALL, load, same

from sparsekern.cli import main
from sparsekern.cli import train as command
from sparsekern.errors import RunError, UsageError
from sparsekern.training import checksum, figures, files, run_folder
from sparsekern.training import grid as runs

FLAGS = [*SMALL, "--sparsity", "0.8", "--method", "set", "--set", "every=3"]
NAMES = ["checkpoint.pt", "config.json", "metrics.jsonl", "model.safetensors", "report.png", "summary.json"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    out = tmp_path_factory.mktemp("runs") / "done"
    assert main(["train", *FLAGS, "--epochs", "2", "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(done, tmp_path / "run"))


def refused(capsys: pytest.CaptureFixture, *argv: str, status: int = 2) -> str:
    """The only line of a command that fails."""
    capsys.readouterr()
    assert main(list(argv)) == status
    (line,) = capsys.readouterr().err.splitlines()
    return line


def stopped_while_drawing(monkeypatch: pytest.MonkeyPatch, *argv: str) -> None:
    def draw(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(figures, "draw_run", draw)
        assert main(["train", *argv]) == 130


def test_a_prolonged_run_that_stops_at_its_end_is_not_finished(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    stopped_while_drawing(monkeypatch, "--resume", str(run), "--epochs", "4")
    assert json.loads((run / "summary.json").read_text())["epochs"] == 2
    assert not run_folder.finished(run)
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 0
    assert "is finished" not in capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    last = load(run)["history"][-1]
    assert (summary["epochs"], summary["test_loss"]) == (4, last["test_loss"])
    assert run_folder.finished(run)
    assert main(["train", "--resume", str(run)]) == 0
    assert "is finished: 4 epochs" in capsys.readouterr().out


def test_a_comparison_ends_a_prolonged_run(run: Path, monkeypatch: pytest.MonkeyPatch):
    stopped_while_drawing(monkeypatch, "--resume", str(run), "--epochs", "3")
    config = run_folder.load(run)["config"]
    assert runs.run_all([runs.Cell({}, config, run)], 1) == []
    assert run_folder.read_summary(run)["epochs"] == 3


def test_a_finished_run_vouches_for_its_weights(run: Path, capsys: pytest.CaptureFixture):
    good = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert main(["train", "--resume", str(run)]) == 0
    assert "is finished" not in capsys.readouterr().out
    assert (run / "model.safetensors").read_bytes() == good


@pytest.mark.parametrize("name", ["summary.json", "config.json"])
def test_stopped_before_a_file_was_written(name: str, run: Path, done: Path):
    config = run_folder.read_config(run)
    (run / "summary.json").unlink()
    (run / name).unlink(missing_ok=True)
    runs.check(runs.Cell({}, config, run))  # of a comparison that goes on
    assert main(["train", "--resume", str(run)]) == 0
    assert run_folder.finished(run)
    assert (run / "config.json").read_text() == (done / "config.json").read_text()


def test_a_checkpoint_of_another_run_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    for number, (flags, name) in enumerate([(["--seed", "1"], "seed"), (["--lr", "0.01"], "lr")]):
        other = tmp_path / str(number)
        assert main(["train", *FLAGS, *flags, "--epochs", "2", "--out", str(other)]) == 0
        shutil.copy(other / "checkpoint.pt", run)
        line = refused(capsys, "train", "--resume", str(run))
        assert f"is of another run than config.json beside it: {name} is" in line


def test_a_run_of_release_0_1_is_resumed(run: Path, done: Path, tmp_path: Path):
    state = load(run) | {"version": 1}
    state["config"]["threads"] = None
    torch.save(state, run / "checkpoint.pt")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({k: v for k, v in summary.items() if k not in ("files", "checksum")}))
    (run / "config.json").write_text(json.dumps(state["config"]))
    assert run_folder.finished(run)
    whole = shutil.copytree(done, tmp_path / "whole")
    for folder in (run, whole):
        assert main(["train", "--resume", str(folder), "--epochs", "3"]) == 0
    same(load(run), load(Path(whole)))


def test_its_zip_checksums_are_read(run: Path, capsys: pytest.CaptureFixture):
    torch.save(load(run) | {"version": 1}, run / "checkpoint.pt")
    data = bytearray((run / "checkpoint.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (run / "checkpoint.pt").write_bytes(data)
    assert "checkpoint.pt is damaged: the checksum of" in refused(capsys, "train", "--resume", str(run))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"epoch": "2"}, "epoch: expected a whole number, 0 or more, got '2'"),
        ({"rng": None}, "rng: expected a Tensor, got None"),
        ({"history": [{}]}, "history[0].epoch is missing"),
        ({"history": []}, "history: expected 2 epochs, got 0"),
        ({"config": {}}, "config.method is missing"),
        ({"optimizer": []}, "optimizer: expected an object, got []"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_structure_is_checked(change: dict, expected: str, run: Path, capsys: pytest.CaptureFixture):
    checksum.save(run / "checkpoint.pt", load(run) | change)
    line = refused(capsys, "train", "--resume", str(run))
    assert line == f"sparsekern: {run / 'checkpoint.pt'} is damaged: {expected}"


def full_after(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A disk on which so many bytes of a file fit."""

    class Full:
        def __init__(self, file: IO[bytes]) -> None:
            self.file, self.left = file, size

        def write(self, data: bytes) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

        def flush(self) -> None: ...

    original = checksum._Hashed
    monkeypatch.setattr(checksum, "_Hashed", lambda file: original(Full(file)))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1000, 5000])
def test_a_full_disk_is_one_line(size: int, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    before = (run / "checkpoint.pt").read_bytes()
    full_after(monkeypatch, size)
    line = refused(capsys, "train", "--resume", str(run), "--epochs", "3", status=1)
    assert line == f"sparsekern: cannot write {run / 'checkpoint.pt'}: No space left on device"
    assert (run / "checkpoint.pt").read_bytes() == before
    assert sorted(path.name for path in run.iterdir()) == NAMES


def test_weights_that_do_not_fit(tmp_path: Path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, before[1]))
    try:
        with pytest.raises(RunError, match=r"cannot write .*model\.safetensors"):
            run_folder.save_weights(tmp_path, torch.nn.Linear(2**7, 2**7))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_what_killed_processes_left_is_removed(run: Path):
    for name in (".checkpoint.pt.k3j2h1.pt", ".summary.json.abcdef.json", ".report.png.x.png", ".lock"):
        (run / name).write_bytes(b"half")
    (run / ".mine").write_text("kept")
    assert main(["train", "--resume", str(run), "--epochs", "3"]) == 0
    assert sorted(path.name for path in run.iterdir()) == [".mine", *NAMES]


def test_one_process_at_a_time(run: Path, capsys: pytest.CaptureFixture):
    script = "import sys; from pathlib import Path; from sparsekern.training.files import locked\n"
    script += "with locked(Path(sys.argv[1]), []): print('mine', flush=True); sys.stdin.read()"
    pipes: dict = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script, str(run)], **pipes, cwd=Path(__file__).parents[2]) as other:
        assert other.stdout.readline() == "mine\n"
        for argv in (["--resume", str(run)], [*FLAGS, "--epochs", "1", "--overwrite", "--out", str(run)]):
            assert f"{run} is in use: process {other.pid} writes to it" in refused(capsys, "train", *argv)
        other.kill()
        other.wait()
        assert main(["train", "--resume", str(run)]) == 0
    assert sorted(path.name for path in run.iterdir()) == NAMES


def test_the_slower_of_two_new_runs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    original = command.prepared

    def prepared(*args: object) -> object:  # meanwhile another process begins and ends
        monkeypatch.setattr(command, "prepared", original)
        assert main(["train", *FLAGS, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
        return original(*args)

    monkeypatch.setattr(command, "prepared", prepared)
    line = refused(capsys, "train", *FLAGS, "--epochs", "2", "--out", str(tmp_path / "run"))
    assert "already holds a run" in line
    assert run_folder.read_summary(tmp_path / "run")["epochs"] == 1


def test_runs_without_a_folder_find_different_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = {"data": "digits", "model": "mlp", "method": "set", "sparsity": 0.5, "seed": 0}
    names = [command._new_folder(config).name for _ in range(3)]
    assert names == ["digits-mlp-set-0.5-seed0", "digits-mlp-set-0.5-seed0-2", "digits-mlp-set-0.5-seed0-3"]


def test_a_folder_that_cannot_be_locked(tmp_path: Path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UsageError, match="cannot write to"), files.locked(tmp_path, []):
        raise AssertionError


def test_a_resumed_run_keeps_its_threads(tmp_path: Path, capsys: pytest.CaptureFixture):
    flags = [*FLAGS[:4], *FLAGS[6:], "--epochs", "1", "--out", str(tmp_path)]
    torch.set_num_threads(2)
    assert main(["train", *flags]) == 0
    torch.set_num_threads(1)
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path), "--epochs", "2"]) == 0
    captured = capsys.readouterr()
    assert ", 2 threads" in captured.out
    assert torch.get_num_threads() == 2
    assert "threads" not in captured.err
    assert main(["train", "--resume", str(tmp_path), "--epochs", "3", "--threads", "1"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "threads" in line]
    assert "--threads 1 instead of 2" in line
    assert run_folder.read_summary(tmp_path)["threads"] == 1

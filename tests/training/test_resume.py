"""Interrupted runs: the checkpoint survives, and the continued run equals the uninterrupted one bit for bit."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
import torch
from support import pictures
from support.runs import SMALL, interrupt_at, load, same

from sparsekern.cli import main
from sparsekern.errors import RunError, UsageError
from sparsekern.nn import crossovers
from sparsekern.training import checksum, configure, learning_rate, run_folder, short_runs
from sparsekern.training.files import write_json
from sparsekern.training.loop import prepared

FLAGS = [*SMALL, "--width", "0.2", "--epochs", "4", "--sparsity", "0.8"]
CASES = {
    "rigl": ["--method", "rigl", "--set", "every=5", "--schedule", "cosine"],
    "gse_grabo": ["--method", "gse_grabo", "--set", "every=5", "--nesterov"],
    "gse_synflow, two batches": ["--method", "gse_synflow", "--set", "every=5", "--set", "batches=2"],
    "gmp": ["--method", "gmp", "--optimizer", "adam"],
    "snip": ["--method", "snip", "--schedule", "step", "--milestones", "2,3"],
    "masked": ["--method", "set", "--backend", "masked", "--warmup", "2"],
    "overrides": ["--method", "gmp", "--overrides", "fc1=0.95", "--overrides", "*2=set", "--overrides", "fc3=none"],
    "rounds": ["--method", "rewind", "--schedule", "cosine", "--set", "fraction=0.5"],
    "dense": ["--method", "dense"],
}


def flags(case: str) -> list[str]:
    return [*(FLAGS if case != "dense" else FLAGS[:-2]), *CASES[case]]


@pytest.mark.parametrize("case", CASES)
def test_continues_bit_for_bit(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", *flags(case), "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 12 * 2 + 7)  # in the middle of the third epoch
        assert main(["train", *flags(case), "--out", str(parts)]) == 130
    assert load(parts)["epoch"] == 2
    assert not (parts / "summary.json").exists()
    torch.manual_seed(123)  # a new process would not have the old one's random state
    assert main(["train", "--resume", str(parts)]) == 0
    same(load(whole), load(parts))
    assert len((parts / "metrics.jsonl").read_text().splitlines()) == 4


def test_interrupted_in_the_first_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", *flags("rigl"), "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        assert main(["train", *flags("rigl"), "--out", str(parts)]) == 130
    assert main(["train", "--resume", str(parts)]) == 0
    same(load(whole), load(parts))


def test_ctrl_c_leaves_130_and_a_checkpoint(tmp_path: Path):
    argv = [
        sys.executable,
        "-m",
        "sparsekern",
        "train",
        *FLAGS[:-4],
        "--epochs",
        "5000",
        "--out",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("epoch"):
        assert process.poll() is None
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert f"--resume {tmp_path / 'run'}" in error
    assert load(tmp_path / "run")["epoch"] >= 1
    assert not list((tmp_path / "run").glob(".*"))


def test_prolonged_run_keeps_its_first_epochs(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["train", *FLAGS, "--out", str(tmp_path)]) == 0
    before = load(tmp_path)["history"]
    assert main(["train", "--resume", str(tmp_path)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["train", "--resume", str(tmp_path), "--epochs", "6"]) == 0
    after = load(tmp_path)
    assert after["history"][:4] == before
    assert json.loads((tmp_path / "summary.json").read_text())["epochs"] == 6
    assert (after["config"]["epochs"], after["config"]["horizon"]) == (6, 4)


def test_other_names_of_the_classes_are_other_data(tmp_path: Path, capsys: pytest.CaptureFixture):
    data, out = pictures.folders(tmp_path / "data", [(20, 12)]), tmp_path / "out"
    images = ["--model", "mlp", "--data", "imagefolder", "--data-dir", str(data)]
    assert main(["train", *FLAGS, *images, "--method", "random", "--epochs", "1", "--out", str(out)]) == 0
    for part in ("train", "val"):
        (data / part / "cat").rename(data / part / "zebra")
    assert main(["train", "--resume", str(out), "--epochs", "2"]) == 2
    assert "other data: names ['cat', 'dog'], now ['dog', 'zebra']" in capsys.readouterr().err


def test_conflicting_flags_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["train", *FLAGS, "--schedule", "cosine", "--out", str(tmp_path)]) == 0
    for wrong, expected in [
        (["--method", "set"], "--method"),
        (["--lr", "0.5"], "--lr"),
        (["--epochs", "3"], "--epochs"),
        (["--epochs", "9"], "cosine"),
    ]:
        assert main(["train", "--resume", str(tmp_path), *wrong]) == 2
        assert expected in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path), "--method", "gse_grabo"]) == 0


@pytest.mark.parametrize("damage", ["truncated", "text", "opcodes", "foreign", "other version", "other model"])
def test_damaged_checkpoint(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["train", *FLAGS, "--epochs", "1", "--out", str(tmp_path)]) == 0
    path = tmp_path / "checkpoint.pt"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        path.write_text("not a checkpoint")
    elif damage == "opcodes":
        path.write_text("hello")
    elif damage == "foreign":
        torch.save({"model": {}}, path)
    elif damage == "other version":
        torch.save({"version": 0}, path)
    else:
        state = load(tmp_path)
        state["config"]["width"] = 0.3
        torch.save(state, path)
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path), "--epochs", "2"]) == 2
    error = capsys.readouterr().err
    assert "checkpoint" in error
    assert "Traceback" not in error


def test_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert main(["train", *FLAGS, "--epochs", "1", "--out", str(tmp_path)]) == 0
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def save(state: object, file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(checksum.torch, "save", save)
    with pytest.raises(RunError, match=r"checkpoint\.pt: disk full"):
        run_folder.save(tmp_path, {})
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_cosine_ends_at_the_final_learning_rate(capsys: pytest.CaptureFixture):
    config = configure(schedule="cosine", lr=0.5, final_lr=0.1, epochs=4)
    rates = [learning_rate(config, step, 10) for step in (0, 20, 40)]
    assert rates == pytest.approx([0.5, 0.3, 0.1])
    assert learning_rate({key: config[key] for key in config if key != "final_lr"}, 40, 10) == 0
    assert main(["train", "--final-lr", "0.1"]) == 2
    assert "--schedule cosine" in capsys.readouterr().err


def test_cosine_by_epochs_is_that_of_pytorch():
    config = configure(schedule="cosine", schedule_unit="epoch", lr=0.5, final_lr=0.1, epochs=4)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4, eta_min=0.1)
    for epoch in range(4):
        rates = [learning_rate(config, 10 * epoch + step, 10) for step in range(10)]
        assert rates == pytest.approx([expected.get_last_lr()[0]] * 10)
        optimizer.step()
        expected.step()
    by_step = configure(schedule="cosine", lr=0.5, final_lr=0.1, epochs=4)
    old = {key: by_step[key] for key in by_step if key != "schedule_unit"}  # of a folder from before
    assert [learning_rate(old, t, 10) for t in range(40)] == [learning_rate(by_step, t, 10) for t in range(40)]
    with pytest.raises(UsageError, match="--schedule-unit belong to --schedule cosine"):
        configure(schedule_unit="epoch")


def test_rounds_restart_the_schedule(tmp_path: Path):
    rates = {}
    for method in ("magnitude_after", "oneshot_ft"):
        argv = ["--method", method, "--schedule", "cosine", "--lr", "0.1", "--warmup", "1"]
        assert main(["train", *FLAGS, *argv, "--out", str(tmp_path / method)]) == 0
        rates[method] = [epoch["lr"] for epoch in load(tmp_path / method)["history"]]
    first, second, third, fourth = rates["magnitude_after"]
    assert (first, second) == (third, fourth)
    config = configure(schedule="cosine", lr=0.1, warmup=1, epochs=4)
    assert [first, second] == [learning_rate(config, step, 12) for step in (22, 46)]
    assert rates["oneshot_ft"] == [learning_rate(config, step, 12) for step in (11, 23, 35, 47)]


def test_gradients_are_clipped_to_a_norm_of_all_together() -> None:
    """As a loop of one's own would do it; papers and files from before the setting do not clip."""
    given = {"model": "lenet300", "width": 0.1, "method": "rigl", "sparsity": 0.8, "epochs": 1, "threads": 1}
    run, own = (prepared(configure(**given, batch_size=512, clip=clip)) for clip in (0.05, 0.0))
    run.train_epoch()
    for x, y, _ in own._parts(0):
        own.optimizer.zero_grad()
        own.loss(own.model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(own.model.parameters(), 0.05)
        for group in own.optimizer.param_groups:
            group["lr"] = 0.05
        own.optimizer.step()
    same(own.model.state_dict(), run.model.state_dict())


def test_a_card_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    configure(device="cuda:0")
    with pytest.raises(UsageError, match="there is no cuda:3: this machine has 1 CUDA device"):
        configure(device="cuda:3")


def test_schedules_that_outlast_the_run_are_named():
    with pytest.warns(UserWarning, match=r"--warmup 3 is longer than the run of 1 epoch: .* below --lr 0.05$"):
        configure(epochs=1, warmup=3)
    with pytest.warns(UserWarning, match=r"--milestones 2 9: the run ends before, after 2 epochs$"):
        configure(epochs=2, schedule="step", milestones=[9, 1, 2])


def test_defaults_of_short_runs_and_of_files_from_before(tmp_path: Path) -> None:
    long, short, other = configure(), configure(epochs=9), configure(data="mnist")
    assert [(c["batch_size"], c["warmup"], c["clip"]) for c in (long, short, other)] == [
        (32, 1, 1.0),
        (32, 0, 1.0),
        (128, 1, 1.0),
    ]
    write_json(tmp_path / "config.json", {key: long[key] for key in long if key != "clip"})
    assert run_folder.read_config(tmp_path) == long | {"clip": 0.0}
    optg = configure(method="optg")
    write_json(tmp_path / "config.json", {key: optg[key] for key in optg if key != "clip"})
    assert run_folder.read_config(tmp_path)["set"] == {"steepness": 4.0}  # 80 / 20


def test_masks_of_optg_in_a_short_run() -> None:
    """Epochs of 45 steps, 20 of them: a mask every second one, and alpha is 10 / 10. What is set is left alone."""
    assert short_runs.options("optg", 900, 45, {}) == {"every": 90, "steepness": 1.0}
    assert short_runs.options("optg", 100, 10, {}) == {"every": 10, "steepness": 1.0}  # a tenth of the run
    assert short_runs.options("optg", 160 * 196, 196, {}) == {"every": 196, "steepness": 0.5}  # the paper's
    for given in ({"steepness": 4.0}, {"every": 45}):
        assert short_runs.options("optg", 900, 45, given) == given
    assert short_runs.options("rigl", 900, 45, {}) == {}


def test_more_growth_batches_than_an_epoch_has(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["train", *FLAGS, "--method", "gse_grabo", "--set", "batches=50", "--out", str(tmp_path / "run")]) == 2
    assert "batches=50 is more than the 12 batches of an epoch" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["rigl", "gmp"])
def test_a_run_keeps_its_kernels_when_the_machine_is_calibrated(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def tables(**above: float) -> None:
        row = {"rows": 64, "cols": 64, "batch": 128, "dtype": "float32", "above": {"csr": 0.0, **above}}
        monkeypatch.setattr(crossovers, "rows", lambda kind, dtype: [row])

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    tables(tiled=0.1, dense=0.9)
    assert main(["train", *flags(case), "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 12 * 2 + 7)
        assert main(["train", *flags(case), "--out", str(parts)]) == 130
    tables(dense=0.05)
    assert main(["train", "--resume", str(parts)]) == 0
    same(load(whole), load(parts))
    kernels, own = ([site["kernel"] for site in load(run)["optimizer"]["sites"].values()] for run in (whole, parts))
    assert own == kernels
    assert "tiled" in own

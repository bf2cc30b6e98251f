"""`compare`: statistics, resuming, isolation of failures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.runs import SMALL

from sparsekern import methods
from sparsekern.cli import compare, main, results
from sparsekern.training import grid as runs

FLAGS = [*SMALL, "--width", "0.2", "--epochs", "2"]


def grid(out: Path, *flags: str) -> int:
    return main(["compare", *FLAGS, "--out", str(out), *flags])


def row(method: str, seed: int, accuracy: float, backend: str = "sparse", sparsity: float | None = 0.9) -> dict:
    return {
        "method": method, "backend": backend, "sparsity_target": sparsity, "seed": seed, "test_accuracy": accuracy,
        "test_loss": 1 - accuracy, "nnz": 100, "seconds_per_step": 0.001, "train_seconds": 2 + seed,
        "peak_memory_bytes": 10 + seed, "peak_weight_bytes": 5 - seed,
    }  # fmt: skip


def test_mean_deviation_and_rank():
    runs = [row("set", 0, 0.8), row("set", 1, 0.9), row("rigl", 0, 0.9), row("rigl", 1, 0.94), row("snip", 0, 0.1)]
    table = results.tabulate(runs)
    assert [(r["method"], r["rank"]) for r in table] == [("rigl", 1), ("set", 2), ("snip", 3)]
    assert table[1]["accuracy_mean"] == pytest.approx(0.85)
    assert table[1]["accuracy_std"] == pytest.approx(0.05 * 2**0.5)
    assert table[2]["accuracy_std"] is None
    assert table[1]["train_seconds"] == pytest.approx(2.5)
    assert (table[1]["peak_memory_bytes"], table[1]["peak_weight_bytes"]) == (11, 5)


def test_twins_are_paired_by_seed():
    runs = [row("set", s, 0.8 + s / 100) for s in (0, 1, 2)] + [row("set", s, 0.8, "masked") for s in (1, 2)]
    (pair,) = results.pair(runs)
    assert pair["differences"] == pytest.approx([0.01, 0.02])
    assert pair["mean"] == pytest.approx(0.015)


def test_a_sparsity_that_emerges_is_the_mean_over_the_seeds():
    runs = [row("snr", s, 0.8, sparsity=None) | {"sparsity": 0.7 + s / 100} for s in (0, 1, 2)]
    (line,) = results.tabulate(runs)
    assert (line["sparsity"], line["seeds"], line["rank"]) == (0.71, [0, 1, 2], 1)
    (pair,) = results.pair([*runs, runs[0] | {"backend": "masked"}])
    assert pair["sparsity"] == 0.7


def test_compare_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture):
    flags = ["--methods", "dense,set", "--sparsities", ".8", "--seeds", "0", "--backends", "sparse,masked"]
    flags += ["--note", "Digits, not CIFAR."]
    assert grid(tmp_path, *flags, "--jobs", "2") == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert {r["run"] for r in found["runs"]} == {"dense-seed0", "set-0.8-sparse-seed0", "set-0.8-masked-seed0"}
    assert found["failed"] == []
    assert len(found["paired"]) == 1
    text = (tmp_path / "table.md").read_text()
    assert "| set | sparse |" in text
    assert "masked dense twin" in text
    assert "over the seeds. Digits, not CIFAR.\n" in text
    assert all(r["train_seconds"] > 0 for r in found["runs"])
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    kept = (tmp_path / "set-0.8-sparse-seed0" / "summary.json").stat().st_mtime_ns
    (tmp_path / "dense-seed0" / "summary.json").unlink()
    capsys.readouterr()
    assert grid(tmp_path, *flags) == 0
    out = capsys.readouterr().out
    assert "2 of 3 runs are finished already" in out
    assert "dense-seed0: accuracy" in out
    assert (tmp_path / "set-0.8-sparse-seed0" / "summary.json").stat().st_mtime_ns == kept
    assert main(["plot", str(tmp_path)]) == 0
    assert grid(tmp_path, *flags, "--lr", "0.01") == 2
    assert "another --out" in capsys.readouterr().err


def test_a_failed_run_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch):
    original = runs.command

    def command(cell: runs.Cell) -> list[str]:
        return [*original(cell), *(["--lr=1e30"] if cell.config["method"] == "random" else [])]

    monkeypatch.setattr(runs, "command", command)
    assert grid(tmp_path, "--methods", "random,set", "--seeds", "0") == 1
    captured = capsys.readouterr()
    log = tmp_path / "random-0.9-auto-seed0" / "log.txt"
    assert "FAILED" in captured.out
    assert str(log) in captured.err
    assert "diverged" in log.read_text()
    found = json.loads((tmp_path / "results.json").read_text())
    assert [f["run"] for f in found["failed"]] == ["random-0.9-auto-seed0"]
    assert [r["method"] for r in found["runs"]] == ["set"]


@pytest.mark.parametrize("deaf", [False, True])
def test_runs_do_not_outlive_the_comparison(deaf: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # said in either case: what was started in the background of a script hands deafness on
    handler = "SIG_IGN" if deaf else "SIG_DFL"
    script = f"import signal, time; signal.signal(signal.SIGINT, signal.{handler}); print('begun', flush=True)"
    script += "; time.sleep(100)"
    monkeypatch.setattr(runs, "command", lambda cell: [sys.executable, "-c", script])
    monkeypatch.setattr(runs, "GRACE", 0.2 if deaf else 60.0)
    begun: list[subprocess.Popen] = []
    popen, pause = subprocess.Popen, time.sleep
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: begun.append(popen(*a, **k)) or begun[-1])
    cells = [runs.Cell({}, {}, tmp_path / str(i)) for i in range(2)]

    def sleep(seconds: float) -> None:
        pause(seconds)
        if all("begun" in (cell.folder / "log.txt").read_text() for cell in cells):
            monkeypatch.setattr(time, "sleep", pause)
            os.kill(os.getpid(), signal.SIGTERM)
            pause(1)

    monkeypatch.setattr(time, "sleep", sleep)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        runs.run_all(cells, 2)
    assert [process.returncode for process in begun] == [-signal.SIGKILL if deaf else -signal.SIGINT] * 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_options_go_to_the_methods_that_have_them(tmp_path: Path):
    cells = compare._cells(
        {"methods": ["random", "set", "rigl"], "sparsities": [0.9], "seeds": [0], "backends": ["auto"]},
        {}, [("every", 7), ("rigl.every", 9)], tmp_path,
    )  # fmt: skip
    assert [cell.config["set"] for cell in cells] == [{}, {"every": 7}, {"every": 9}]


def test_all_is_every_method_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(compare, "run_all", lambda cells, jobs: begun.extend(c.config["method"] for c in cells) or [])
    assert grid(tmp_path, "--methods", "set,all", "--seeds", "0") == 0
    assert begun[0] == "set"
    assert sorted(begun) == sorted(methods.names())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--methods", "rigl,sett"], "set"),
        (["--methods", "rigl", "--backends", "sprase"], "sparse"),
        (["--methods", "rigl", "--sparsities", "0.9,1.5"], "[0, 1)"),
        (["--methods", "random", "--set", "every=5"], "unknown option of random 'every'; known: initialize"),
        (["--methods", "random,set", "--set", "evry=5"], "unknown option of random, set 'evry'; did you mean every?"),
        (["--methods", "random,set", "--set", "rigl.every=5"], "rigl is not among --methods random,set"),
        (["--methods", "random,set", "--set", "set.evry=5"], "unknown option of set 'evry'; did you mean every?"),
        (["--methods", ""], "empty"),
        (["--methods", "rigl", "--data", "mnist", "--data-dir", "/nowhere"], "--download"),
    ],
)
def test_wrong_usage(flags: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert grid(tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", results.FILES)
def test_files_that_are_of_no_comparison_stay(name: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / name).write_text("mine")
    assert grid(tmp_path, "--methods", "random") == 2
    assert f"{tmp_path} holds {name}, which is of no comparison" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_no_run_moves_into_a_comparison_and_its_threads_may_stand_in_a_file(tmp_path: Path, capsys):
    (tmp_path / "run.yaml").write_text("threads: 1\n")
    out = tmp_path / "out"
    assert grid(out, "--methods", "random", "--seeds", "0", "--config", str(tmp_path / "run.yaml")) == 0
    assert json.loads((out / "results.json").read_text())["settings"]["threads"] == 1
    assert main(["train", *FLAGS, "--out", str(out)]) == 2
    assert "holds a comparison" in capsys.readouterr().err

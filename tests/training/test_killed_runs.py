"""Runs that are killed at random moments, without a chance to end, continue to what they would have been."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.runs import SMALL, load, same

from sparsekern.cli import main
from sparsekern.training import run_folder

FLAGS = [*SMALL, "--sparsity", "0.8", "--epochs", "12", "--method", "rigl", "--set", "every=5"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["train", *FLAGS, "--out", str(out)]) == 0
    return out


def killed(run: Path, seconds: float, *argv: str) -> None:
    """Begins a run, or goes on with it, and kills it so long after its next file was written."""
    command = [sys.executable, "-m", "sparsekern", "train", *argv]
    before = (run / "checkpoint.pt").stat().st_mtime_ns if (run / "checkpoint.pt").exists() else 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2]) as process:
        while process.poll() is None:
            if (run / "checkpoint.pt").exists() and (run / "checkpoint.pt").stat().st_mtime_ns > before:
                time.sleep(seconds)
                break
            time.sleep(0.001)
        assert process.poll() in (None, 0)
        process.kill()


@pytest.mark.parametrize("seed", range(2))
def test_killed_and_resumed_bit_for_bit(seed: int, whole: Path, tmp_path: Path):
    rng = random.Random(seed)
    run = tmp_path / "run"
    killed(run, rng.uniform(0, 0.5), *FLAGS, "--out", str(run))
    if rng.random() < 0.5:
        killed(run, rng.uniform(0, 0.3), "--resume", str(run))
    assert main(["train", "--resume", str(run)]) == 0
    assert run_folder.complete(run, 12)
    same(load(run), load(whole))
    assert sorted(path.name for path in run.iterdir()) == sorted(run_folder.FILES)

"""`make gpu-test` goes on where it stopped, and tells what failed and what is left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_tests

FILES = ["tests/test_imports.py", "tests/test_build.py"]


def test_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, failing = [], {FILES[1]}

    def tested(name: str) -> dict:
        ran.append(name)
        return {"file": name, "passed": name not in failing, "seconds": 0.0, "summary": ""}

    monkeypatch.setattr(gpu_tests, "tested", tested)
    monkeypatch.setattr(gpu_tests, "fingerprint", lambda: "first")
    command = ["--out", str(tmp_path), "--jobs", "1", *FILES]
    assert gpu_tests.main(["--seconds", "-1", *command]) == gpu_tests.UNFINISHED
    assert ran == []
    assert gpu_tests.main(command) == 1
    failing.clear()
    assert gpu_tests.main(command) == 0
    assert ran == [*FILES, FILES[1]]
    rows = [json.loads(line) for line in (tmp_path / "gpu-tests.jsonl").read_text().splitlines()]
    assert [(row["file"], row["passed"]) for row in rows] == [(FILES[0], True), (FILES[1], False), (FILES[1], True)]
    monkeypatch.setattr(gpu_tests, "fingerprint", lambda: "changed")
    assert gpu_tests.main(command) == 0
    assert ran[3:] == FILES


def test_runs_pytest(tmp_path: Path) -> None:
    good, bad = tmp_path / "test_good.py", tmp_path / "test_bad.py"
    good.write_text("def test(): pass")
    bad.write_text("def test(): raise OSError")
    assert gpu_tests.tested(str(good))["passed"]
    assert not gpu_tests.tested(str(bad))["passed"]


@pytest.mark.parametrize("target", ["gpu-test", "gpu-bench", "gpu-sanitize", "gpu"])
def test_targets_need_a_card(target: str) -> None:
    command = ["make", "-C", str(gpu_tests.ROOT), target, f"PYTHON={sys.executable}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 2
    assert "there is no CUDA device" in found.stderr
    assert "Traceback" not in found.stderr
    assert "pytest" not in found.stdout

"""`sparsekern calibrate`: what it prints, writes, and leaves behind when it is interrupted."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sparsekern.bench.calibrate import Effort
from sparsekern.cli import calibrate, main
from sparsekern.nn import crossovers, processor
from sparsekern.process import STOPPED

TINY = Effort(
    linear=[((48, 32, 8), "float32")],
    convolutions=[((16, 8, 3, 2, 6, 4), "float32")],
    densities=(0.1, 0.5),
    conv_densities=(0.1, 0.5),
    budget=0.005,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache directory of the test's own; little is measured."""
    monkeypatch.setenv("SPARSEKERN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(calibrate, "QUICK", TINY)
    crossovers.clear_cache()
    yield tmp_path / "cache"
    crossovers.clear_cache()


def test_the_machine_is_measured_and_info_says_so(cache: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["calibrate", "--threads", "1"]) == 0
    head, *rows, path = capsys.readouterr().out.splitlines()
    assert head == f"{processor.here()}, 1 thread"
    assert [row.partition(": ")[0] for row in rows] == [
        "32->48, batch 8, float32",
        "8->16, 3x3, stride 2, batch 4, float32",
    ]
    assert [path] == [str(file) for file in cache.iterdir()]
    assert main(["info"]) == 0
    assert f"measured on this machine ({path})" in capsys.readouterr().out


def test_a_slow_machine_is_told_what_was_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    more = replace(TINY, linear=[*TINY.linear, ((64, 32, 8), "float32"), ((32, 64, 8), "float32")], seconds=0.0)
    monkeypatch.setattr(calibrate, "QUICK", more)
    assert main(["calibrate", "--threads", "1"]) == 0
    told = capsys.readouterr().err
    assert "the time was over after 2 of 4 layers" in told
    assert "calibrate again when the machine does nothing else" in told


def test_a_user_without_a_home_has_a_folder_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSEKERN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert crossovers.cache_folder().is_absolute()
    assert str(os.getuid()) in crossovers.cache_folder().name


@pytest.mark.parametrize(("kind", "kernel"), [("linear", "warp"), ("linear", "bits"), ("convolutions", "tiled")])
def test_a_table_with_a_kernel_that_there_is_not_is_ignored(cache: Path, kind: str, kernel: str) -> None:
    assert main(["calibrate", "--threads", "1"]) == 0
    (path,) = cache.iterdir()
    report = json.loads(path.read_text())
    report[kind][0]["above"][kernel] = 0.01
    path.write_text(json.dumps(report))
    crossovers.clear_cache()
    with pytest.warns(UserWarning, match=f"is ignored: expected the kernels .*, got {kernel}"):
        assert crossovers.calibrated(1) is None


def test_nothing_is_left_half_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["calibrate", "--threads", "1"]) == 0
    before = {file: file.read_bytes() for file in cache.iterdir()}

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsekern.bench.calibrate.interleave", interrupted)
    assert main(["calibrate", "--threads", "1"]) == STOPPED
    assert {file: file.read_bytes() for file in cache.iterdir()} == before


def test_a_cache_that_cannot_be_written_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPARSEKERN_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(calibrate, "calibrate", lambda *_, **__: pytest.fail("it measures"))
    assert main(["calibrate"]) == 2
    assert "cannot write to" in capsys.readouterr().err

"""`sparsekern calibrate`: what it prints, writes, and leaves behind when it is interrupted."""

from collections.abc import Iterator
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

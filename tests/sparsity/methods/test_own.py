"""Methods that others write: by the place of their constructor, and by entry points."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.runs import SMALL

import sparsekern as sk
from sparsekern.cli import main
from sparsekern.sparsity.methods import own

MINE = '''
import sparsekern as sk
from sparsekern.sparsity.methods.registry import listed
from helper import EVERY


def mine(sparsity, total_steps, every: int = EVERY, rate=0.3):
    """RigL with other defaults."""
    return sk.methods.rigl(sparsity=sparsity, total_steps=total_steps, every=every, rate=rate)


def passed_on(**options):
    return sk.methods.rigl(**options)


def emerging(total_steps, steps_per_epoch):
    return sk.methods.snr(total_steps=total_steps, steps_per_epoch=steps_per_epoch)


@listed("another method of this name")
def rigl(request, *, every: int = 7):
    """Has the name of one of the package."""
    return sk.methods.set(request.sparsity, request.total_steps, every=every)


def wrong(sparsity):
    return "rigl"


number = 3
'''


def same(a: sk.Method, b: sk.Method) -> bool:
    """Whether two methods are one; their functions are compared by what they print."""
    return re.sub(r"0x\w+", "", repr(a)) == re.sub(r"0x\w+", "", repr(b))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with methods, which is the current one."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "helper.py").write_text("EVERY = 5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("mine", "helper"):
        sys.modules.pop(name, None)
    own.find.cache_clear()
    own.installed.cache_clear()


@pytest.mark.parametrize("place", ["mine.py:mine", "mine:mine", "{}/mine.py:mine"])
def test_a_method_by_its_place(place: str, folder: Path) -> None:
    method = sk.methods.get(place.format(folder))(sparsity=0.9, total_steps=100, steps_per_epoch=10)
    assert same(method, sk.methods.rigl(sparsity=0.9, total_steps=100, every=5))


def test_what_a_constructor_takes(folder: Path) -> None:
    passed = sk.methods.get("mine.py:passed_on")(sparsity=0.9, total_steps=100, steps_per_epoch=10, every=3)
    assert same(passed, sk.methods.rigl(sparsity=0.9, total_steps=100, steps_per_epoch=10, every=3))
    emerging = sk.methods.get("mine.py:emerging")(total_steps=100, steps_per_epoch=10)
    assert emerging.name == "snr"


def test_a_copy_of_a_method_does_not_take_its_place(folder: Path) -> None:
    before = sk.methods.rigl(sparsity=0.9, total_steps=100)
    made = sk.methods.get("mine.py:rigl")(sparsity=0.9, total_steps=100)
    assert made.name == "set"
    assert sk.methods.get("rigl")(sparsity=0.9, total_steps=100).when == before.when


def test_a_run_with_it_is_resumed(folder: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--method", "mine.py:mine", "--sparsity", "0.8", "--set", "rate=0.5"]
    assert main(["train", *SMALL, *flags, "--epochs", "1"]) == 0
    (run,) = (folder / "runs").iterdir()
    assert json.loads((run / "config.json").read_text())["method"] == "mine.py:mine"
    assert main(["train", "--resume", str(run), "--epochs", "2"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["method"], summary["epochs"]) == ("mine.py:mine", 2)
    assert summary["sparsity"] == pytest.approx(0.8, abs=1e-3)
    (folder / "mine.py").rename(folder / "moved.py")
    own.find.cache_clear()
    assert main(["train", "--resume", str(run), "--epochs", "3"]) == 2
    assert f"there is no file {folder / 'mine.py'}" in capsys.readouterr().err


def test_a_comparison_with_it(folder: Path) -> None:
    flags = ["--methods", "mine.py:mine,mine:emerging", "--seeds", "0", "--epochs", "1"]
    assert main(["compare", *SMALL, *flags, "--out", "grid"]) == 0
    names = {path.name for path in Path("grid").iterdir() if path.is_dir()}
    assert names == {"mine.py-mine-0.9-auto-seed0", "mine-emerging-auto-seed0"}
    rows = json.loads(Path("grid/results.json").read_text())["table"]
    assert {row["method"] for row in rows} == {"mine.py:mine", "mine:emerging"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["mine.py:mien"], "mine.py has no 'mien'"),
        (["mine.py:number"], "expected a function"),
        (["mine.py:wrong"], "expected that it returns a sparsekern.Method, got 'rigl'"),
        (["other.py:mine"], "there is no file"),
        (["nothing:mine"], "cannot import nothing: ModuleNotFoundError: No module named 'nothing'"),
        (["broken.py:mine"], "broken.py, line 2: ZeroDivisionError: division by zero"),
        (["unfinished.py:mine"], "SyntaxError"),
        (["mine.py:mine", "--set", "evry=3"], "did you mean every"),
        (["mine.py:mine", "--set", "every=often"], "expects a whole number, got 'often'"),
    ],
)
def test_mistakes_are_one_line(flags: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "broken.py").write_text("\n1 / 0\n")
    (folder / "unfinished.py").write_text("def mine(:")
    assert main(["train", *SMALL, "--method", *flags]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (folder / "runs").exists()


def test_methods_of_installed_packages(folder: Path, capsys: pytest.CaptureFixture) -> None:
    facts = folder / "others-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[sparsekern.methods]\nmine = mine:mine\nlost = nothing:mine\nrigl = mine:wrong\n"
    )
    sys.path.append(str(folder))
    own.installed.cache_clear()
    assert sk.methods.names()[-2:] == ["mine", "lost"]
    assert sk.methods.names().count("rigl") == 1
    method = sk.methods.get("mine")(sparsity=0.9, total_steps=100)
    assert same(method, sk.methods.rigl(sparsity=0.9, total_steps=100, every=5))
    assert sk.methods.describe("mine")["title"] == "RigL with other defaults."
    assert sk.methods.get("rigl") is sk.methods.rigl
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert "RigL with other defaults." in out
    assert "cannot import nothing" in out
    assert main(["methods", "mine"]) == 0
    assert "--set every=5" in capsys.readouterr().out

"""Damaged run folders: refused with one line, or resumed to the very result of the undamaged one."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.runs import SMALL, interrupt_at, load, same

from sparsekern.cli import main
from sparsekern.training import figures, run_folder

FLAGS = [*SMALL, "--width", "0.05", "--batch-size", "256", "--sparsity", "0.8"]
FLAGS += ["--method", "rigl", "--set", "every=2"]
RESUME = {"finished": ["--epochs", "3"], "untouched": [], "stopped": []}
FILES = ["checkpoint.pt", "config.json", "summary.json", "model.safetensors", "metrics.jsonl"]
OTHERS = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"7",
    b'"text"',
    b'{"epochs": "two"}',
    b"{" * 100_000,
    b"[" * 100_000,
    b"\xff\xfe",
]


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw_run", lambda path, *_: path.write_bytes(b"picture"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Of each kind a run, and what it is when it was resumed: to prolong it, as it is, in the middle."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("finished", "untouched"):
        assert main(["train", *FLAGS, "--epochs", "2", "--out", str(root / name)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 9)
        assert main(["train", *FLAGS, "--epochs", "3", "--out", str(root / "stopped")]) == 130
    found = {}
    for name, flags in RESUME.items():
        whole = Path(shutil.copytree(root / name, root / f"{name}, resumed"))
        assert main(["train", "--resume", str(whole), *flags]) == 0
        found[name] = root / name, whole
    return found


def other_json(text: bytes, rng: random.Random) -> bytes:
    """The first document with another value somewhere."""
    value, _ = json.JSONDecoder().raw_decode(text.decode())
    keys = list(value)
    key = rng.choice(keys)
    value[key] = rng.choice([None, -1, 1e300, "x", [], {}, [[]], {"a": 1}, True, 2**70])
    if rng.random() < 0.2:
        del value[key]
    return json.dumps(value).encode() + b"\n"


def damaged(data: bytes, name: str, rng: random.Random) -> bytes:
    kind = rng.choice(["flip", "flip", "bytes", "cut", "other", "grown", "json"])
    place = rng.randrange(len(data))
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    if kind == "bytes":
        return data[:place] + rng.randbytes(8) + data[place + 8 :]
    if kind == "cut":
        return data[:place]
    if kind == "grown":
        return data + rng.randbytes(rng.choice([1, 22, 200]))
    return other_json(data, rng) if kind == "json" and name.endswith(("json", "jsonl")) else rng.choice(OTHERS)


def cases(count: int) -> Iterator[tuple[str, str, int]]:
    rng = random.Random(14)
    for seed in range(count):
        name = rng.choice(FILES[:3] * 2 + FILES)
        yield rng.choice(list(RESUME)), name, seed


@pytest.mark.parametrize(("kind", "name", "seed"), cases(100))
def test_damage_is_refused_or_changes_nothing(
    kind: str, name: str, seed: int, folders: dict, tmp_path: Path, capsys: pytest.CaptureFixture
):
    before, whole = folders[kind]
    run = Path(shutil.copytree(before, tmp_path / "run"))
    if not (run / name).exists():
        name = "checkpoint.pt"
    good = (run / name).read_bytes()
    bad = damaged(good, name, random.Random(seed))
    if bad == good:
        bad = bad[1:]
    (run / name).write_bytes(bad)
    capsys.readouterr()
    status = main(["train", "--resume", str(run), *RESUME[kind]])
    captured = capsys.readouterr()
    assert not list(run.glob(".*"))
    if status == 2:
        (line,) = captured.err.splitlines()
        assert name in line
        assert name in ("checkpoint.pt", "config.json")
        return
    assert status == 0
    assert name != "checkpoint.pt"
    same(load(run), load(whole))
    same(load_file(run / "model.safetensors"), load_file(whole / "model.safetensors"))
    same([*run_folder.read_summary(run).items()][:11], [*run_folder.read_summary(whole).items()][:11])
    assert len((run / "metrics.jsonl").read_text().splitlines()) == load(whole)["epoch"]


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: repr(value[:8]))
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "results.json"])
def test_plot_of_other_json(name: str, value: bytes, folders: dict, tmp_path: Path, capsys: pytest.CaptureFixture):
    run = shutil.copytree(folders["finished"][0], tmp_path / "run")
    (run / name).write_bytes(value)
    capsys.readouterr()
    assert main(["plot", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sparsekern: ")


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: repr(value[:8]))
def test_a_comparison_of_a_damaged_run(value: bytes, folders: dict, tmp_path: Path, capsys: pytest.CaptureFixture):
    """The configuration is refused; of a summary the run is asked anew."""
    run = shutil.copytree(folders["finished"][0], tmp_path / "set-0.8-auto-seed0")
    (run / "summary.json").write_bytes(value)
    assert not run_folder.finished(run)
    (run / "config.json").write_bytes(value)
    capsys.readouterr()
    assert main(["compare", "--methods", "set", "--sparsities", "0.8", "--seeds", "0", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "config.json" in line

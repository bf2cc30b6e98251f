"""Texts: which files are read, how they are split, and what windows of them a pass sees."""

from pathlib import Path

import pytest
import torch

from sparsekern import data
from sparsekern.errors import UsageError


def load(path: Path | str, context: int = 4) -> data.Data:
    return data.load({"data": "text", "data_dir": str(path), "context": context})


def held(split) -> bytes:
    return bytes(split.text.tolist())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b.txt").write_bytes(bytes(range(65, 85)))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.py").write_text("ä" * 15)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0" + b"x" * 50)
    (tmp_path / "latin.txt").write_bytes(b"\xe4" * 50)
    (tmp_path / ".hidden").write_text("hidden " * 20)
    return tmp_path


def test_the_last_tenth_of_each_file_is_to_test_on(folder: Path):
    text = load(folder, context=3)
    assert held(text.train) == ("ä" * 15).encode()[:27] + bytes(range(65, 83))
    assert held(text.test) == ("ä" * 15).encode()[27:] + b"ST"
    assert (text.shape, text.classes, text.tokens) == ((3,), 256, True)


def test_a_pattern_and_a_file_of_any_bytes(folder: Path):
    assert held(load(folder / "*.txt", context=1).train) == bytes(range(65, 83))
    (folder / "b.txt").unlink()
    assert held(load(folder / "**" / "*.py", context=2).train) == ("ä" * 15).encode()[:27]
    assert held(load(folder / "latin.txt").train) == b"\xe4" * 45


def test_targets_follow_their_inputs_and_a_pass_sees_every_byte_once(tmp_path: Path):
    (tmp_path / "text").write_bytes(bytes(range(100)))
    text = load(tmp_path / "text")
    starts = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(text.train), generator=generator)
        batches = list(text.train.batches(rows, 5, generator))
        assert all(x.dtype == y.dtype == torch.int64 for x, y in batches)
        seen = torch.cat([x for x, _ in batches])
        assert torch.equal(torch.cat([y for _, y in batches]), seen + 1)
        first = int(seen.min())
        assert torch.equal(seen.flatten().sort().values, torch.arange(first, first + 4 * len(rows)))
        starts.add(first)
    assert (len(text.train), starts) == (21, {0, 1, 2, 3})


def test_to_test_on_the_windows_are_always_the_same(tmp_path: Path):
    (tmp_path / "text").write_bytes(bytes(range(100)))
    ((x, y),) = load(tmp_path / "text").test.batches(torch.arange(2), 8, torch.Generator())
    assert x.tolist() == [[90, 91, 92, 93], [94, 95, 96, 97]]
    assert torch.equal(y, x + 1)


def test_parts_of_a_batch_are_those_of_the_whole(tmp_path: Path):
    (tmp_path / "text").write_bytes(bytes(range(200)))
    train, rows = load(tmp_path / "text").train, torch.arange(40)
    whole = list(train.batches(rows, 10, torch.Generator().manual_seed(1)))
    part = list(train.batches(rows, 10, torch.Generator().manual_seed(1), slice(1, None, 3)))
    for (x, y), (own_x, own_y) in zip(whole, part, strict=True):
        assert torch.equal(own_x, x[1::3])
        assert torch.equal(own_y, y[1::3])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "standard library"),
        ("nowhere", "there is no file or folder"),
        ("picture.*", "no text"),
        ("b.txt", "--context of 100 needs"),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, expected: str, folder: Path):
    with pytest.raises(UsageError, match=expected):
        load(folder / name if name else "", context=100)

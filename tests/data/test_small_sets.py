"""Data sets: the table reader, the split, and files that are missing or damaged."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsekern import data
from sparsekern.data.tabular import encode
from sparsekern.errors import UsageError


def load_csv(path: Path, text: str, target: str = "label", seed: int = 0) -> data.Data:
    (path / "table.csv").write_text(text)
    return data.load({"data": "csv", "data_dir": str(path / "table.csv"), "target": target, "seed": seed})


def rows(n: int = 50) -> str:
    generator = np.random.default_rng(0)
    lines = ["size,colour,label,constant"]
    for i in range(n):
        lines.append(f"{generator.normal(5, 3):.4f},{('red', 'green', 'blue')[i % 3]},{'ab'[i % 2]},7")
    return "\n".join(lines)


def test_csv_is_standardised_on_the_training_rows(tmp_path: Path):
    table = load_csv(tmp_path, rows())
    assert (len(table.train.y), len(table.test.y), table.classes) == (40, 10, 2)
    assert table.shape == (1 + 3 + 1,)
    size = table.train.x[:, 0]
    torch.testing.assert_close(size.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(size.std(correction=0), torch.tensor(1.0))
    assert abs(float(table.test.x[:, 0].mean())) > 1e-3
    assert torch.equal(table.train.x[:, 1:4].sum(1), torch.ones(40))
    assert not table.train.x[:, 4].any()


def test_csv_statistics_ignore_the_test_rows():
    import pandas

    frame = pandas.DataFrame({"x": [1.0, 3.0, 1000.0], "c": ["a", "b", "only in the test rows"]})
    x = encode(frame, np.array([0, 1]))
    assert torch.equal(x, torch.tensor([[-1.0, 1, 0], [1, 0, 1], [998, 0, 0]]))


def test_csv_missing_cells():
    import pandas

    frame = pandas.DataFrame({"x": [1.0, None, 3.0], "c": ["a", None, "b"], "flag": [True, False, True]})
    x = encode(frame, np.arange(3))
    assert x[1, 0] == 0
    assert not x[1, 1:3].any()
    assert x.shape == (3, 5)
    assert torch.isfinite(x).all()


def test_csv_split_depends_on_the_seed_only(tmp_path: Path):
    first, again, other = (load_csv(tmp_path, rows(), seed=s) for s in (1, 1, 2))
    assert torch.equal(first.test.x, again.test.x)
    assert not torch.equal(first.test.x, other.test.x)


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        (rows(), "lable", "label"),
        ("a,b\n1,2\n", "a", "rows"),
        ("label\n" + "a\nb\n" * 5, "label", "feature"),
        ("x,label\n" + "1,a\n" * 9, "label", "one class"),
        ("x,label\n" + "1,a\n2,\n" * 5, "label", "empty in 5 rows"),
        ("x,label\n" + "".join(f"1,{i}.5\n" for i in range(9)), "label", "continuous"),
        ('x,label\n"1,a\n2', "label", "cannot read"),
        ("", "label", "cannot read"),
        ("x,label\n" + "".join(f"1,{i}\n" for i in range(10_001)), "label", "10,001 classes; the limit is 10,000"),
        ("x,label\n" + "".join(f"n{i},{i % 2}\n" for i in range(20_000)), "label", "'x' has 16,000 categories"),
    ],
)
def test_csv_bad_input(text: str, target: str, expected: str, tmp_path: Path):
    with pytest.raises(UsageError, match=expected):
        load_csv(tmp_path, text, target)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zip"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_csv_damaged_archive(kind: str, damage: str, tmp_path: Path):
    import pandas

    path = tmp_path / f"table.csv.{kind}"
    pandas.DataFrame({"x": range(200), "label": [0, 1] * 100}).to_csv(path, index=False)
    data_ = bytearray(path.read_bytes())
    if damage == "flipped":
        data_[len(data_) // 2] ^= 0xFF
    path.write_bytes({"cut": data_[: len(data_) // 2], "flipped": data_, "text": b"no archive"}[damage])
    config = {"data": "csv", "data_dir": str(path), "target": "label", "seed": 0}
    with pytest.raises(UsageError) as error:
        data.load(config)
    assert len(str(error.value).splitlines()) == 1


def test_csv_target_of_mixed_types_and_of_long_integers(tmp_path: Path):
    table = load_csv(tmp_path, "x,label\n" + "1,a\n2,3\n3,4.5\n4,a\n5,3\n" * 4)
    assert table.classes == 3
    table = load_csv(tmp_path, "x,label\n" + f"1,{2**70}\n2,{2**70 + 1}\n3,5\n4,5\n5,5\n" * 4)
    assert table.classes == 3
    assert sorted(torch.cat([table.train.y, table.test.y]).bincount().tolist()) == [4, 4, 12]


def test_csv_integers_beyond_64_bits_are_numbers():
    import pandas

    texts = [str(2**64 + i * 2**60) for i in range(4)] + ["-5", "", str(10**30)]
    frame = pandas.read_csv(io.StringIO("x,y\n" + "".join(f"{text},1\n" for text in texts)))
    assert frame["x"].dtype == object
    values = np.array([float(text or "nan") for text in texts])
    known = values[np.isfinite(values)]
    expected = np.where(np.isfinite(values), (values - known.mean()) / known.std(), 0)
    np.testing.assert_allclose(encode(frame, np.arange(7))[:, 0], expected, rtol=1e-6)
    text = pandas.DataFrame({"x": ["7a", "7", "8"]})
    assert encode(text, np.arange(3)).shape == (3, 3)


def test_csv_missing_file(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot read"):
        data.load({"data": "csv", "data_dir": str(tmp_path / "none.csv"), "target": "y", "seed": 0})


def test_digits_are_split_80_to_20():
    digits = data.load({"data": "digits", "seed": 3})
    assert digits.facts == {"train": 1438, "test": 359, "shape": [1, 8, 8], "classes": 10}
    assert abs(float(digits.train.x.mean())) < 1e-5
    together = torch.cat([digits.train.x, digits.test.x]).flatten(1)
    assert len(together.unique(dim=0)) == len(together)


def write_mnist(root: Path, train: int = 20, test: int = 10) -> Path:
    """A tiny MNIST in the idx format."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, n in (("train", train), ("t10k", test)):
        images = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, n, 28, 28) + images.tobytes())
        labels = np.arange(n, dtype=np.uint8) % 10
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + labels.tobytes())
    return raw


def test_mnist(tmp_path: Path):
    write_mnist(tmp_path)
    mnist = data.load({"data": "mnist", "data_dir": str(tmp_path), "seed": 0})
    assert mnist.facts == {"train": 20, "test": 10, "shape": [1, 28, 28], "classes": 10}
    assert mnist.train.x.dtype == torch.float32
    assert abs(float(mnist.train.x.max()) - (1 - 0.1307) / 0.3081) < 1e-3


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("size", [0, 3, 12])
def test_truncated_mnist(name: str, size: int, tmp_path: Path):
    file = write_mnist(tmp_path) / name
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UsageError, match="incomplete or damaged"):
        data.load({"data": "mnist", "data_dir": str(tmp_path), "seed": 0})


def test_mnist_label_that_is_no_digit(tmp_path: Path):
    file = write_mnist(tmp_path) / "train-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + bytes([200]))
    with pytest.raises(UsageError, match="expected labels of 0 to 9"):
        data.load({"data": "mnist", "data_dir": str(tmp_path), "seed": 0})


def test_mnist_with_a_missing_file(tmp_path: Path):
    (write_mnist(tmp_path) / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(UsageError, match="incomplete or damaged"):
        data.load({"data": "mnist", "data_dir": str(tmp_path), "seed": 0})


def test_mnist_that_is_not_there(tmp_path: Path):
    with pytest.raises(UsageError, match="--download"):
        data.load({"data": "fashion-mnist", "data_dir": str(tmp_path), "seed": 0})

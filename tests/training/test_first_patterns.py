"""Batches that a run gives to methods that score before training."""

from pathlib import Path

import pytest
import torch
from support.runs import SMALL, load, same
from torch import Tensor

from sparsekern.cli import main
from sparsekern.training import run

FLAGS = [*SMALL, "--epochs", "1", "--sparsity", "0.5"]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[Tensor, Tensor]]]:
    """The batches of each call of `sparsify`."""
    seen = []

    def sparsify(model, method, *, batches=(), **options):
        seen.append(list(batches))
        return original(model, method, batches=batches, **options)

    original = run.sparsify
    monkeypatch.setattr(run, "sparsify", sparsify)
    return seen


@pytest.mark.parametrize(
    ("flags", "sizes"),
    [
        (["snip", "--batch-size", "50"], [50]),
        (["prospr"], [359] * 4),  # of 1437 rows
        (["prospr", "--set", "inner_steps=1"], [512] * 2),
        (["prospr_first_order", "--set", "fresh_batches=false"], [512]),
        (["prospr_channel", "--set", "batch_size=100"], [100] * 4),
        (["grasp_abs", "--set", "batches=3"], [128] * 3),
        (["grasp", "--set", "per_class=25"], [130, 120]),  # 13 and 12 of each class
        (["magnitude_init"], []),
    ],
)
def test_as_many_batches_as_the_method_wants(given: list, tmp_path: Path, flags: list[str], sizes: list[int]) -> None:
    states = []
    for part in ("a", "b"):
        assert main(["train", *FLAGS, "--method", *flags, "--out", str(tmp_path / part)]) == 0
        states.append(load(tmp_path / part))
    same(*states)
    first, second = given
    assert [len(x) for x, _ in first] == [len(y) for _, y in first] == sizes
    for (x, y), (x2, y2) in zip(first, second, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    if sum(sizes) > 1:  # no row twice, but for those that the data has twice
        rows = torch.cat([x.flatten(1) for x, _ in first])
        assert len(rows.unique(dim=0)) > 0.99 * len(rows)


def test_another_seed_has_other_batches(given: list, tmp_path: Path) -> None:
    for seed in "01":
        flags = ["--method", "prospr", "--seed", seed, "--out", str(tmp_path / seed)]
        assert main(["train", *FLAGS, *flags]) == 0
    assert not torch.equal(given[0][0][0], given[1][0][0])


def test_wrong_options(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    for flags, message in (
        (["prospr", "--set", "inner_steps=-1"], "prospr takes inner_steps >= 0"),
        (["synflow", "--set", "rounds=0"], "rounds >= 1"),
        (["grasp_abs", "--set", "temperature=0.0"], "temperature > 0"),
        (["grasp", "--set", "per_class=0"], "per_class >= 1"),
        (["grasp", "--set", "per_class=1", "--set", "batches=12"], "per_class=1 is too few for 12 batches"),
    ):
        assert main(["train", *FLAGS, "--method", *flags, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err


def test_as_many_samples_of_each_class(given: list, tmp_path: Path) -> None:
    flags = ["--method", "grasp", "--set", "per_class=25", "--out", str(tmp_path / "run")]
    assert main(["train", *FLAGS, *flags]) == 0
    assert [y.bincount().tolist() for _, y in given[0]] == [[13] * 10, [12] * 10]

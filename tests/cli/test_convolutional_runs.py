"""Convolutional networks from the command line: training, resuming, comparing, and what each layer runs on."""

import json
from pathlib import Path

import pytest
import torch
from support import pictures
from support.runs import interrupt_at, load, same

from sparsekern.cli import main

NARROW = ["--width", "0.25", "--threads", "1", "--batch-size", "16"]


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    pictures.cifar10(root, train=80, test=40)
    return root


def flags(cifar: Path, model: str = "smallcnn") -> list[str]:
    return ["--data", "cifar10", "--data-dir", str(cifar), "--model", model, *NARROW]


@pytest.mark.parametrize("method", ["gse_grabo", "snip", "gmp"])
def test_convolutions_become_sparse(method: str, cifar: Path, tmp_path: Path):
    run = ["--method", method, "--sparsity", "0.8", "--epochs", "2", "--out", str(tmp_path)]
    assert main(["train", *flags(cifar, "resnet20"), *run]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["prunable"] == 9 * (3 * 4 + 6 * 4 * 4 + 4 * 8 + 5 * 8 * 8 + 8 * 16 + 5 * 16 * 16) + 160
    assert summary["nnz"] == summary["prunable"] - int(0.8 * summary["prunable"])
    assert summary["steps"] == 10
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["layers"][0]["shape"] == [4, 3, 3, 3]
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_it_learns_from_augmented_images(cifar: Path, tmp_path: Path):
    run = ["--method", "rigl", "--sparsity", "0.5", "--epochs", "12", "--optimizer", "adam", "--lr", "0.01"]
    assert main(["train", *flags(cifar), *run, "--set", "every=5", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["test_accuracy"] > 0.5


@pytest.mark.parametrize(
    "more",
    [
        ["--schedule", "step", "--milestones", "1", "--warmup", "1", "--nesterov", "--label-smoothing", "0.1"],
        ["--exclude", "conv1", "--exclude", "fc", "--distribution", "erk", "--amp", "bf16"],
        ["--backend", "masked"],
        ["--backend", "dense"],
    ],
    ids=lambda more: more[0],
)
def test_flags(more: list[str], cifar: Path, tmp_path: Path):
    run = ["--method", "set", "--sparsity", "0.7", "--epochs", "2", "--set", "every=3", "--out", str(tmp_path)]
    assert main(["train", *flags(cifar), *run, *more]) == 0
    layers = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["layers"]
    names = [layer["name"] for layer in layers]
    assert names == ["conv1", "conv2", "conv3", "conv4", "fc"][slice(1, 4) if "--exclude" in more else slice(5)]


@pytest.mark.parametrize(("model", "method"), [("smallcnn", "gse_grabo"), ("resnet20", "rigl"), ("wrn28-2", "dense")])
def test_continues_bit_for_bit(model: str, method: str, cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = [*flags(cifar, model), "--method", method, "--epochs", "3"]
    run += [] if method == "dense" else ["--sparsity", "0.8", "--set", "every=2"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", *run, "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5 + 3)  # in the middle of the second epoch
        assert main(["train", *run, "--out", str(parts)]) == 130
    torch.manual_seed(123)
    assert main(["train", "--resume", str(parts)]) == 0
    same(load(whole), load(parts))


def test_pictures_read_while_training_continue_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pictures.folders(tmp_path / "data", [(70, 50)])
    run = ["--data", "imagefolder", "--data-dir", str(tmp_path / "data"), "--model", "smallcnn", "--width", "0.1"]
    run += ["--threads", "1", "--batch-size", "4", "--epochs", "2", "--method", "set", "--sparsity", "0.5"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", *run, "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        assert main(["train", *run, "--out", str(parts)]) == 130
    assert main(["train", "--resume", str(parts)]) == 0
    same(load(whole), load(parts))


def test_compare(cifar: Path, tmp_path: Path):
    grid = ["--methods", "rigl", "--sparsities", "0.8", "--seeds", "0", "--backends", "sparse,masked"]
    assert main(["compare", *flags(cifar), *grid, "--epochs", "1", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["runs"]) == 2
    assert found["failed"] == []
    assert len(found["paired"]) == 1


@pytest.mark.parametrize(
    ("model", "rows"),
    [("smallcnn", 5), ("resnet20", 20), ("mobilenetv1", 28), ("torchvision:squeezenet1_1", 26)],
)
def test_info_without_the_data(model: str, rows: int, capsys: pytest.CaptureFixture):
    narrow = [] if ":" in model else ["--width", "0.25"]
    data = ["--data", "cifar10"] if ":" in model else []
    assert main(["info", "--model", model, "--sparsity", "0.9", *narrow, *data]) == 0
    title, head, *lines = capsys.readouterr().out.strip().split("\n\n")[1].splitlines()
    assert title == f"{model} on cifar10 (3 x 32 x 32, 10 classes)"
    assert head.split() == ["layer", "shape", "nonzeros", "sparsity", "kernel", "reason"]
    assert len(lines) == rows
    assert all(len(line.split()) > 8 for line in lines)


def test_digits_are_images(tmp_path: Path):
    run = ["--model", "smallcnn", *NARROW, "--batch-size", "128", "--epochs", "1", "--method", "random"]
    assert main(["train", *run, "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--model", "vgg16"], "vgg16 cannot take images of 1 x 8 x 8"),
        (["--model", "resnet20", "--batch-size", "1437"], "batch norm"),
        (["--model", "resnet20", "--batch-size", "1"], "batch norm"),
        (
            ["--model", "lenet300", "--method", "prospr", "--set", "inner_steps=1438"],
            "1439 batches, but there are 1438",
        ),
        (["--model", "lenet300", "--batch-size", "479", "--method", "snr"], "from which snr cannot learn"),
        (["--model", "torchvision:resnet18"], "3 channels"),
        (["--model", "torchvision:resnet81"], "resnet18"),
        (["--data", "cifar10", "--data-dir", "/nowhere"], "--download"),
        (["--data", "imagefolder"], "--data-dir"),
    ],
)
def test_wrong_usage(more: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["train", *more, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_tables_are_not_images(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "table.csv").write_text("x,y\n" + "1,a\n2,b\n" * 9)
    table = ["--data", "csv", "--data-dir", str(tmp_path / "table.csv"), "--target", "y"]
    assert main(["train", *table, "--model", "resnet20", "--out", str(tmp_path / "out")]) == 2
    assert "resnet20 takes images, not rows of 1 numbers" in capsys.readouterr().err

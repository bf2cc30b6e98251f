"""Runs on a text: what they report, and that all that other runs do goes on working."""

import json
from copy import deepcopy
from math import log
from pathlib import Path

import pytest
import torch
from support import ranks
from support.runs import interrupt_at, load, same
from torch.nn import functional as F

from sparsekern import data, densify, export, models
from sparsekern.cli import main
from sparsekern.training import Run, configure
from sparsekern.training.trained import trained

SMALL = ["--data", "text", "--model", "gpt-mini", "--width", "0.125", "--context", "8", "--batch-size", "16"]
SMALL += ["--optimizer", "adamw", "--lr", "0.01", "--threads", "1", "--epochs", "2"]
RIGL = ["--method", "rigl", "--sparsity", "0.8", "--set", "every=5"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text("".join(f"{i} squared is {i * i}. " for i in range(100)))
    return path


@pytest.fixture(scope="module")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "rigl"
    assert main(["train", *SMALL, *RIGL, "--data-dir", str(text), "--out", str(out)]) == 0
    return out


def windows(text: Path) -> tuple[torch.Tensor, torch.Tensor]:
    content = text.read_bytes()
    test = torch.tensor(list(content[len(content) - len(content) // 10 :]))
    count = (len(test) - 1) // 8
    return test[: 8 * count].reshape(count, 8), test[1 : 8 * count + 1].reshape(count, 8)


def test_losses_are_of_every_byte(run: Path, text: Path) -> None:
    network, (x, y) = trained(run), windows(text)
    with torch.no_grad():
        logits = network.model(x)
    summary = json.loads((run / "summary.json").read_text())
    loss = -logits.log_softmax(-1).gather(-1, y[..., None]).mean()
    assert summary["test_loss"] == pytest.approx(float(loss), rel=1e-4)
    assert summary["test_bits_per_byte"] == pytest.approx(float(loss) / log(2), rel=1e-4)
    assert summary["test_accuracy"] == pytest.approx(float((logits.argmax(-1) == y).double().mean()))
    assert summary["test_bits_per_byte"] < 5 < log(256) / log(2)  # of this text about 30 characters
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["test_bits_per_byte"] * log(2) for line in lines] == pytest.approx(
        [line["test_loss"] for line in lines]
    )
    assert len(lines[-1]["layers"]) == 24  # neither the embeddings nor the head


def test_continues_bit_for_bit(run: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "parts"
    with monkeypatch.context() as patch:
        interrupt_at(patch, load(run)["step"] // 2)
        assert main(["train", *SMALL, *RIGL, "--data-dir", str(text), "--out", str(out)]) == 130
    torch.manual_seed(5)
    assert main(["train", "--resume", str(out)]) == 0
    same(load(run), load(out))


def test_ranks_train_the_same_run(run: Path, text: Path, tmp_path: Path) -> None:
    flags = ["train", *SMALL, *RIGL, "--data-dir", str(text), "--out", str(tmp_path / "run")]
    assert ranks.ended(ranks.start(2, lambda rank: main(flags), tmp_path)) == [0, 0]
    for one, other in zip(load(tmp_path / "run")["history"], load(run)["history"], strict=True):
        for key in ("train_loss", "test_loss", "test_bits_per_byte"):
            assert one[key] == pytest.approx(other[key], rel=1e-2), key


def test_exports_compute_the_same(run: Path, text: Path) -> None:
    network, (x, _) = trained(run), windows(text)
    for format in ("dense", "csr", "safetensors"):
        assert main(["export", str(run), "--format", format]) == 0
        plain = models.build("gpt-mini", (8,), 256, 0.125).eval()
        path = run / export.FORMATS[format]
        if format == "dense":
            plain.load_state_dict(torch.load(path, weights_only=True))
        else:
            plain = export.load(plain, path)
        torch.testing.assert_close(plain(x), network.model(x))


def begun(text: Path, method: str, epochs: int = 2, **settings: object) -> Run:
    config = configure(
        data="text", data_dir=str(text), model="gpt-mini", width=0.125, context=8, batch_size=16, optimizer="adamw",
        lr=0.01, threads=1, method=method, epochs=epochs, **settings,
    )  # fmt: skip
    return Run(config, data.load(config))


@pytest.mark.parametrize(
    "method", ["snip", "prospr", "synflow", "grasp", "gse_synflow", "optg", "snr", "prospr_channel"]
)
def test_methods_train_on_sequences(method: str, text: Path) -> None:
    run = begun(text, method, amp="bf16")
    before, _ = run.evaluate()
    for _ in range(2):
        run.train_epoch()
    loss, accuracy = run.evaluate()
    assert loss < before - 0.5
    assert accuracy > 0.1
    nnz, size = run.weights()
    assert size == 24 * 32 * 32 * 2
    if method not in ("snr", "prospr_channel"):
        assert nnz == size - int(0.9 * size)


def test_moments_are_of_windows(text: Path) -> None:
    """The second moment of the gradient: a window's share is the sum over its bytes."""
    run = begun(text, "snr")
    x, y = next(iter(run.data.train.batches(torch.arange(6), 6, torch.Generator())))
    run.loss(run.model(x), y).backward()
    plain = densify(deepcopy(run.model))
    for name in ("blocks.0.attention.v", "blocks.3.up"):
        expected = 0
        for one, target in zip(x, y, strict=True):
            loss = F.cross_entropy(plain(one[None])[0], target) / len(x)
            expected += torch.autograd.grad(loss, plain.get_submodule(name).weight)[0].square()
        torch.testing.assert_close(run.model.get_submodule(name).moment, expected)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--data", "text"], "--data text needs a --model of text: gpt-mini"),
        (["--model", "gpt-mini"], "gpt-mini needs --data text"),
        (["--context", "8"], "--context belongs to --data text"),
        (["--data", "text", "--model", "gpt-mini"], "standard library"),
    ],
)
def test_what_contradicts_itself_is_refused(flags: list[str], expected: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", *flags]) == 2
    assert expected in capsys.readouterr().err


def test_info_needs_no_text(capsys: pytest.CaptureFixture) -> None:
    assert main(["info", "--model", "gpt-mini", "--sparsity", "0.9", "--context", "32"]) == 0
    told = capsys.readouterr().out
    assert "gpt-mini on text (32, 256 classes)" in told
    assert "blocks.3.attention.out" in told

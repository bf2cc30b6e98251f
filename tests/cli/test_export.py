"""`sparsekern export`: the network of a run of every storage in every format that needs no other package."""

import sys
from pathlib import Path

import pytest
import torch
from support.runs import SMALL

from sparsekern import export, models
from sparsekern.cli import main
from sparsekern.training import run_folder
from sparsekern.training.trained import trained

RUNS = {
    "dense": [],
    "gse_grabo": ["--sparsity", "0.8"],
    "dpf": ["--sparsity", "0.8"],
    "lottery": ["--sparsity", "0.8"],
    "str": ["--set", "initial=-4.0"],
    "rigl": ["--model", "smallcnn", "--sparsity", "0.8"],
}


@pytest.fixture(scope="module", params=RUNS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / request.param
    flags = [*SMALL, "--epochs", "2", *RUNS[request.param], "--out", str(out)]
    assert main(["train", "--method", request.param, *flags]) == 0
    return out


def test_every_format_gives_the_network_of_the_run(folder: Path, capsys: pytest.CaptureFixture) -> None:
    run = trained(folder)
    config = run_folder.read_config(folder)
    x = torch.randn(5, *run.shape)
    expected = run.model(x)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(state[name], tensor) for name, tensor in run.model.state_dict().items())
    for format in ("dense", "csr", "safetensors"):
        assert main(["export", str(folder), "--format", format]) == 0
        path = folder / export.FORMATS[format]
        assert capsys.readouterr().out.startswith(f"{path}: {format}, ")
        plain = models.build(config["model"], run.shape, 10, config["width"]).eval()
        if format == "dense":
            plain.load_state_dict(torch.load(path, weights_only=True))
        else:
            plain = export.load(plain, path)
        torch.testing.assert_close(plain(x), expected)


def test_files_are_not_lost(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = ["--out", str(tmp_path / "weights.safetensors")]
    line = ["export", str(folder), "--format", "dense", *out]
    assert main(line) == 0
    assert main(line) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*line, "--overwrite"]) == 0
    for name in ("model.safetensors", "checkpoint.pt"):
        assert main(["export", str(folder), "--format", "dense", "--overwrite", "--out", str(folder / name)]) == 2
        assert "belongs to the run itself" in capsys.readouterr().err
    assert run_folder.complete(folder, 2)


def test_without_the_extra(folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(folder), "--format", "onnx"]) == 2
    assert "this needs onnx; install it with: pip install 'sparsekern[onnx]'" in capsys.readouterr().err
    assert not (folder / "model.onnx").exists()


def test_damaged_runs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes()[:-1])
    assert main(["export", str(tmp_path), "--format", "csr"]) == 2
    assert "is damaged" in capsys.readouterr().err

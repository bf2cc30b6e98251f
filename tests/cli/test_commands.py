"""The command line as a user meets it: a run and its folder, wrong usage, lists and facts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.runs import SMALL
from support.trajectories import CHANNELS

from sparsekern import methods
from sparsekern.cli import main
from sparsekern.nn.memory import COLUMNS

FLAGS = [*SMALL, "--width", "0.2"]


def train(*flags: str) -> int:
    return main(["train", *FLAGS, *flags])


def fails(capsys: pytest.CaptureFixture, *argv: str) -> str:
    """The message of a command that must exit with status 2."""
    assert main(list(argv)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.strip()
    return captured.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "rigl"
    assert train("--method", "rigl", "--sparsity", "0.8", "--epochs", "3", "--set", "every=5", "--out", str(out)) == 0
    return out


def test_summary_holds_the_documented_keys(folder: Path):
    summary = json.loads((folder / "summary.json").read_text())
    names = (
        "method model data sparsity_target sparsity nnz prunable train_loss test_loss test_accuracy epochs steps "
        "seconds_per_step peak_memory_bytes seed backend device"
    )
    assert set(names.split()) <= set(summary)
    assert summary["prunable"] == 64 * 60 + 60 * 20 + 20 * 10
    assert summary["nnz"] == summary["prunable"] - int(0.8 * summary["prunable"])
    assert summary["sparsity"] == pytest.approx(0.8, abs=1e-9)
    assert (summary["epochs"], summary["steps"], summary["seed"]) == (3, 36, 0)
    assert summary["test_accuracy"] > 0.5
    assert 10**7 < summary["peak_memory_bytes"] < 10**11
    assert 0 < summary["cpu_seconds_per_step"] < 1
    assert summary["peak_weight_bytes"] == sum(summary["memory"][column] for column in COLUMNS)  # rigl keeps its size


def test_peak_of_the_weights_is_that_of_the_dense_beginning(tmp_path: Path):
    assert train("--method", "gmp", "--sparsity", "0.9", "--epochs", "4", "--out", str(tmp_path / "gmp")) == 0
    summary = json.loads((tmp_path / "gmp" / "summary.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "gmp" / "metrics.jsonl").read_text().splitlines()]
    total = summary["memory"]
    dense = sum(total[f"dense_{column}"] for column in COLUMNS)
    assert dense <= summary["peak_weight_bytes"] == lines[0]["weight_bytes"]
    assert lines[-1]["weight_bytes"] >= sum(total[column] for column in COLUMNS) < dense / 2


def test_folder_is_complete_and_nothing_else(folder: Path):
    names = ["checkpoint.pt", "config.json", "metrics.jsonl", "model.safetensors", "report.png", "summary.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert {"name", "shape", "nnz", "sparsity", "kernel"} <= set(lines[0]["layers"][0])
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")


def test_weights_are_those_of_the_checkpoint(folder: Path):
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    weights = load_file(folder / "model.safetensors")
    tensors = {name: t for name, t in state["model"].items() if isinstance(t, torch.Tensor)}
    assert weights.keys() == tensors.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in tensors.items())


def test_plot_says_that_there_is_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "results.json").write_text('{"table": []}')
    assert main(["plot", str(tmp_path)]) == 2
    assert "no finished run: nothing to draw" in capsys.readouterr().err


def test_plot_draws_the_report_again(folder: Path, capsys: pytest.CaptureFixture):
    (folder / "report.png").unlink()
    assert main(["plot", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.png")
    assert (folder / "report.png").stat().st_size > 10_000


def test_a_run_is_not_overwritten_by_accident(folder: Path, capsys: pytest.CaptureFixture):
    before = (folder / "summary.json").read_bytes()
    assert "--overwrite" in fails(capsys, "train", *SMALL, "--epochs", "1", "--out", str(folder))
    assert (folder / "summary.json").read_bytes() == before


def test_files_of_others_are_not_overwritten_by_accident(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "model.safetensors").write_bytes(b"weights of another program")
    message = fails(capsys, "train", *FLAGS, "--epochs", "1", "--out", str(tmp_path))
    assert "holds model.safetensors, which is of no run" in message
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_comparison_and_a_run_have_folders_of_their_own(folder: Path, capsys: pytest.CaptureFixture):
    assert "holds a run, not a comparison" in fails(capsys, "compare", "--methods", "set", "--out", str(folder))


def test_overwrite_replaces_a_run(tmp_path: Path):
    assert train("--method", "dense", "--epochs", "2", "--out", str(tmp_path)) == 0
    flags = ["--method", "set", "--epochs", "1", "--out", str(tmp_path), "--overwrite"]
    assert train(*flags) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["method"] == "set"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", methods.names())
def test_every_method_trains(name: str, tmp_path: Path):
    sparse = [] if name == "dense" else ["--sparsity", "0.75"]
    options = ["--set", "initial=-5.0"] if name == "str" else []
    assert train("--method", name, "--epochs", "2", "--out", str(tmp_path), *sparse, *options) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    expected = summary["prunable"] - (0 if name == "dense" else int(0.75 * summary["prunable"]))
    if name in (*CHANNELS, "dpf_filter", "sfp"):  # whose sparsity counts channels
        assert 0 < summary["nnz"] < summary["prunable"]
    elif name in ("snr", "snr_frozen", "str"):  # whose sparsity emerges
        assert summary["sparsity_target"] is None
        assert 0 < summary["nnz"] < summary["prunable"]
    else:
        assert summary["nnz"] == expected


@pytest.mark.parametrize(
    "flags",
    [
        ["--optimizer", "adamw", "--lr", "0.002", "--weight-decay", "0.01"],
        ["--nesterov", "--schedule", "step", "--milestones", "1", "--gamma", "0.5", "--warmup", "1"],
        ["--schedule", "cosine", "--label-smoothing", "0.1", "--exclude", "fc3"],
        ["--backend", "masked"],
        ["--backend", "dense"],
        ["--amp", "bf16"],
        ["--distribution", "erk"],
    ],
    ids=lambda flags: " ".join(flags[:2]),
)
def test_flags_of_training(flags: list[str], tmp_path: Path):
    assert train("--epochs", "2", "--out", str(tmp_path), *flags) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["test_accuracy"] > 0.15


@pytest.mark.parametrize("method", ["random", "rigl"])
def test_diverged_run_is_one_line(method: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert train("--method", method, "--lr", "1e30", "--epochs", "2", "--out", str(tmp_path)) == 1
    assert "diverged" in capsys.readouterr().err
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--method", "rigel"], "rigl"),
        (["--model", "lenet30"], "lenet300"),
        (["--data", "mnits"], "mnist"),
        (["--sparsity", "1"], "[0, 1)"),
        (["--sparsity", "-0.1"], "[0, 1)"),
        (["--sparsity", "nan"], "[0, 1)"),
        (["--epochs", "0"], "1 or more"),
        (["--method", "dense", "--sparsity", "0.5"], "dense"),
        (["--method", "rigl", "--set", "evry=3"], "every"),
        (["--method", "rigl", "--set", "rate=fast"], "expects a number, got 'fast'"),
        (["--set", "every"], "KEY=VALUE"),
        (["--amp", "fp16"], "bf16"),
        (["--optimizer", "adam", "--nesterov"], "sgd"),
        (["--schedule", "step"], "--milestones"),
        (["--milestones", "3"], "--schedule step"),
        (["--exclude", "nothing*"], "nothing*"),
        (["--distribution", "unifrm"], "uniform"),
        (["--device", "tpu"], "tpu"),
        (["--data", "mnist", "--data-dir", "/nowhere"], "--download"),
        (["--data", "csv"], "--target"),
        (["--target", "y"], "csv"),
        (["--wrong-flag"], "--wrong-flag"),
        (["--resume", "/nowhere"], "/nowhere"),
    ],
)
def test_wrong_usage(flags: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = [] if "--resume" in flags else ["--out", str(tmp_path / "out")]
    assert expected in fails(capsys, "train", *flags, *out)
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "file").write_text("")
    assert "cannot write" in fails(capsys, "train", *SMALL, "--out", str(tmp_path / "file" / "run"))


def test_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    assert "sparsekern[cli]" in fails(capsys, "train", "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_methods_are_listed(capsys: pytest.CaptureFixture):
    assert main(["methods"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.split("\n\n")[0].splitlines()]
    assert listed == ["method", *methods.names()]
    assert main(["methods", "rigl"]) == 0
    assert "--set every=" in capsys.readouterr().out
    assert main(["methods", "rigel"]) == 2
    assert "rigl" in capsys.readouterr().err
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert main(["methods", "rigl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows[methods.names().index("rigl")]
    assert [row["name"] for row in rows] == methods.names()
    assert {"title", "paper", "year", "storage", "changes", "gradient", "needs_batches"} <= set(rows[0])


def test_info_names_the_kernel_of_each_layer(capsys: pytest.CaptureFixture):
    assert main(["info"]) == 0
    assert torch.__version__ in capsys.readouterr().out
    assert main(["info", "--model", "lenet300", "--sparsity", "0.95"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()[-4:]
    assert lines[0].split()[:3] == ["layer", "shape", "nonzeros"]
    assert "300 x 64" in lines[1]
    assert "95.00%" in lines[1]


def test_help_and_no_command(capsys: pytest.CaptureFixture):
    assert main(["--help"]) == 0
    assert "train" in capsys.readouterr().out
    assert main([]) == 2


def test_demo_ends_with_a_table_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["demo", "--epochs", "1", "--width", "0.1", "--threads", "1", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for row in ("test accuracy", "time per training step", "weights and indices", "gradients", "optimizer state"):
        assert row in out
    assert str(tmp_path / "demo.png") in out
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")

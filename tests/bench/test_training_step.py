"""Whole training steps in the benchmark: networks that agree, patterns of runs, parts of the time, peak memory."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sparsekern as sk
from sparsekern.bench import markdown, memory, network_step, peak_memory, training_step
from sparsekern.bench.network_step import CLASSES, SHAPE, Pattern, Step, error, load
from sparsekern.bench.step_parts import PARTS, PYTHON, REST, parts
from sparsekern.bench.training_step import VARIANTS
from sparsekern.cli import main
from sparsekern.errors import UsageError
from sparsekern.models import build

MODEL = "lenet300"


def run_folder(path: Path) -> Path:
    network = sk.sparsify(build(MODEL, SHAPE, CLASSES), 0.98, distribution="erk")
    save_file(network.state_dict(), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model": MODEL, "method": "rigl"}))
    return path


@pytest.fixture
def no_children(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Without SparseProp, which may not be installed, and without processes that measure memory: 100, 200 ... bytes."""
    calls: list[tuple] = []
    monkeypatch.setattr(training_step, "VARIANTS", tuple(name for name in VARIANTS if name != "sparseprop"))
    monkeypatch.setattr(training_step, "median", lambda *command: calls.append(command) or {"bytes": 100 * len(calls)})
    return calls


def test_a_row_for_every_variant_and_pattern(tmp_path: Path, no_children: list[tuple]) -> None:
    states = []
    report = training_step.run(
        threads=1, quick=True, models=[MODEL], runs=[run_folder(tmp_path)], save=lambda r: states.append(len(r["rows"]))
    )
    rows = report["rows"]
    assert [(row["impl"], row["pattern"]) for row in rows] == [
        ("dense", ""),
        ("dense-channels-last", ""),
        ("dense-channels-last-bf16", ""),
        ("masked", "uniform"),
        ("sparsekern", "uniform"),
        ("sparsekern-bf16", "uniform"),
        ("sparsekern", "rigl"),
    ]
    assert states == [7]
    assert [row["sparsity"] for row in rows] == pytest.approx([0, 0, 0, 0.95, 0.95, 0.95, 0.98], abs=1e-5)
    assert [row["bytes"] for row in rows] == [100, 200, 300, 400, 500, 600, 700]
    assert rows[6]["bytes_ratio"] == 7
    assert no_children[6][1:] == (MODEL, "sparsekern", "4", "1", "cpu", "float32", "rigl", str(tmp_path))
    for row in rows:
        assert row["case"] == f"step {MODEL}/32x32"
        assert row["ms"] > 0
        assert set(row["parts"]) == {*PARTS, REST, PYTHON}
    assert rows[0]["ratio_to_dense"] == 1
    assert 0 < rows[4]["error"] < 1e-4
    assert 0 < rows[5]["error"] < 1e-4  # compared in fp32
    text = markdown.render(report)
    assert "sparsekern, pattern of rigl" in text
    assert "| mask |" in text
    assert "| convolution |" not in text


def test_compiled_and_channels_last_on_request(monkeypatch: pytest.MonkeyPatch, no_children: list[tuple]) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    report = training_step.run(threads=1, quick=True, models=[MODEL], compiled=True)
    rows = {row["impl"]: row for row in report["rows"]}
    assert list(rows) == [*training_step.VARIANTS, *training_step.FURTHER]
    assert len(compiled) == 9  # six, and the masked twins of three
    for name, row in rows.items():
        assert row["ms"] > 0
        assert row["sparsity"] == pytest.approx(0.95 if name.startswith(("sparsekern", "masked")) else 0, abs=1e-5)
        assert (row["bytes"] is None) == name.endswith("compiled")
        assert ("error" in row) == name.startswith("sparsekern")
    assert "| sparsekern-channels-last-compiled |" in markdown.render(report)


def test_a_network_that_disagrees_gets_no_number(monkeypatch: pytest.MonkeyPatch, no_children: list[tuple]) -> None:
    right = network_step.sparsify

    def wrong(network: nn.Module, *arguments, **options) -> nn.Module:
        network = right(network, *arguments, **options)
        with torch.no_grad():
            next(network.parameters()).mul_(1.1)
        return network

    monkeypatch.setattr(network_step, "sparsify", wrong)
    report = training_step.run(threads=1, quick=True, models=[MODEL])
    assert [row["ms"] is None for row in report["rows"]] == [False, False, False, False, True, True]
    assert report["rows"][4]["missing"].startswith("wrong")
    assert "No number: sparsekern: wrong" in markdown.render(report)


def test_sparseprop_has_right_gradients_or_is_said_to_be_absent(
    monkeypatch: pytest.MonkeyPatch, no_children: list[tuple]
) -> None:
    monkeypatch.setattr(training_step, "VARIANTS", ("dense", "sparseprop"))
    row = training_step.run(threads=1, quick=True, models=[MODEL])["rows"][1]
    if row["ms"] is None:
        assert row["missing"].startswith("not installed")
        assert len(no_children) == 1
    else:
        assert row["sparsity"] == pytest.approx(0.95, abs=1e-5)
        assert 0 < row["error"] < 1e-4


def test_every_gradient_is_compared() -> None:
    sparse, masked = (Step(MODEL, variant, Pattern(), 8) for variant in ("sparsekern", "masked"))
    exact = Step(MODEL, "masked", Pattern(), 8).double().gradients()
    assert exact["output"].dtype == torch.float64
    assert error(masked, exact) < 1e-5
    assert error(sparse, exact) < 1e-5
    with torch.no_grad():
        sparse.network.get_submodule("fc1").bias[0] += 0.5
    assert error(sparse, exact) > training_step.TOLERANCE


@pytest.mark.usefixtures("no_children")
def test_a_step_of_every_variant_moves_what_is_there() -> None:
    for variant in training_step.VARIANTS:
        step = Step(MODEL, variant, Pattern(), 4)
        before = {name: p.clone() for name, p in step.network.named_parameters()}
        step()
        assert all(not torch.equal(before[name], p) for name, p in step.network.named_parameters())
    masked = Step(MODEL, "masked", Pattern(), 4)
    assert float((masked.network.get_submodule("fc1").weight == 0).float().mean()) == pytest.approx(0.95, abs=1e-4)


def test_the_pattern_of_a_run(tmp_path: Path) -> None:
    model, pattern = Pattern.of_run(run_folder(tmp_path))
    assert (model, pattern.name) == (MODEL, "rigl")
    trained = {n: m for n, m in load(tmp_path).items() if n.endswith("row_ptr")}
    masks = pattern.masks(build(MODEL, SHAPE, CLASSES))
    for name, mask in masks.items():
        assert mask.sum(1).tolist() == trained[f"{name}.row_ptr"].diff().tolist()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="finished run"):
        Pattern.of_run(tmp_path)


def test_a_run_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=MODEL):
        training_step.run(threads=1, quick=True, models=["mlp"], runs=[run_folder(tmp_path)])


def test_time_goes_to_what_ran() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten())
    network.append(nn.Linear(8 * 7 * 7, 4))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(16, 3, 16, 16)

    def step() -> None:
        optimizer.zero_grad()
        network(x).sum().backward()
        optimizer.step()

    spent = parts(step)
    assert all(spent[part] > 0 for part in PARTS if part not in ("add", "mask"))
    assert spent["mask"] == 0


def test_memory_follows_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "PROCESSES", 1)
    command = "sparsekern.bench.training_step"
    dense, ours = (
        peak_memory.median(command, "mlp", variant, "8", "1", "cpu", "float32", "uniform")["bytes"]
        for variant in ("dense", "sparsekern")
    )
    weights = sum(p.numel() for p in build("mlp", SHAPE, CLASSES).parameters())
    assert dense > 2.5 * 4 * weights  # weights, gradients, momentum, less what the first small step left free
    assert ours < dense / 2


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "kernels", "--model", "mlp"]) == 2
    assert main(["bench", "kernels", "--compiled"]) == 2
    assert main(["bench", "train", "--run", str(tmp_path)]) == 2
    assert "finished run" in capsys.readouterr().err
    assert main(["bench", "train", "--model", "nonsense"]) == 2
    assert "unknown model" in capsys.readouterr().err


# ---- on a GPU, of which this needs none


@pytest.mark.parametrize("variant", ["dense", "dense-channels-last", "masked", "sparsekern"])
def test_steps_compute_in_bf16_but_are_compared_in_fp32(variant: str) -> None:
    step = Step(MODEL, variant, Pattern(), 4, dtype="bfloat16")
    seen = []
    step.network.get_submodule("fc1").register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    step()
    assert step.gradients()["output"].dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32]


def test_a_gpu_is_measured_in_bf16_and_in_strict_fp32(
    monkeypatch: pytest.MonkeyPatch, no_children: list[tuple]
) -> None:
    setting, measured = torch.backends.cudnn.conv, []

    def measure(model: str, cells: list, batch: int, budget: float, device: str, dtype: str) -> list[dict]:
        measured.append((device, dtype, setting.fp32_precision))
        row = {"case": "step", "device": "A card", "dtype": dtype, "sparsity": 0.5, "batch": batch, "pattern": ""}
        return [row | {"impl": variant, "ms": 1.0, "ratio_to_dense": 1.0} for variant, _ in cells]

    monkeypatch.setattr(training_step, "_measure", measure)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
    report = training_step.run(threads=1, quick=True, models=[MODEL], device="cuda")
    assert measured == [("cuda", "bfloat16", "ieee"), ("cuda", "float32", "ieee")]
    assert report["card"] == "A card"
    assert {command[5:7] for command in no_children} == {("cuda", "bfloat16"), ("cuda", "float32")}
    text = markdown.render(report)
    assert "A card" in text
    assert "batch 4, bfloat16**" in text
    assert "profiled" not in text


def test_memory_of_a_gpu_is_what_is_allocated_there(monkeypatch: pytest.MonkeyPatch) -> None:
    reset, children = [], []
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 25)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
    peak_memory.reset_peak("cuda")
    assert (peak_memory.peak("cuda") - peak_memory.held("cuda"), reset) == (15, ["cuda"])
    monkeypatch.setattr(memory, "median", lambda *command, **_: children.append(command) or {"bytes": 8, "ms": 1})
    report = memory.run(threads=1, quick=True, device="cuda")
    assert {command[-1] for command in children} == {"cuda"}
    assert {row["device"] for row in report["rows"]} == {"A card"}
    assert "Peak allocated memory" in markdown.render(report)

"""The benchmark of the GPU, tried out on the CPU: what it checks, what it keeps, where it goes on."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.cases import Case
from benchmarks.gpu.timing import Stopwatch

HERE = torch.device("cpu")


def test_measures_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--device", "cpu", "--quick", "--out", str(tmp_path)]
    assert gpu.main([*flags, "--case", "forward 96x160"]) == 0
    (path,) = tmp_path.glob("gpu-cpu-*.json")
    rows = json.loads(path.read_text())["rows"]
    assert {row["case"] for row in rows} == {"forward 96x160"}
    assert {row["sparsity"] for row in rows} == {0.8, 0.9, 0.95, 0.98}
    timed = {row["impl"] for row in rows if row["ms"] is not None}
    assert {"dense", "masked", "sparsekern-expanded", "sparsekern-fused"} <= timed
    capsys.readouterr()
    assert gpu.main(flags) == 0
    again = json.loads(path.read_text())["rows"]
    assert again[: len(rows)] == rows
    assert {row["case"].split()[0] for row in again} == {
        "forward",
        "input_gradient",
        "weight_gradient",
        "gradient_moment",
        "topk_mask",
    }
    dense = [row for row in again if row["impl"] in ("dense", "torch.topk")]
    assert all(row["ratio_to_dense"] == 1 for row in dense)
    assert not [row for row in again if "error" in row["fault"]]
    assert "goes on" not in capsys.readouterr().err
    assert gpu.main([*flags, "--minutes", "0"]) == gpu.UNFINISHED
    assert "goes on" in capsys.readouterr().err


def test_a_wrong_result_gets_no_number() -> None:
    right = torch.ones(4, 4)
    calls = {"dense": lambda: right, "wrong": lambda: 2 * right, "shape": lambda: right[:2], "broken": _broken}
    case = Case("case", torch.float32, 0.5, 1, calls, lambda: [right.double()])
    found = {row["impl"]: row for row in gpu.rows(case, Stopwatch(HERE), "cpu")}
    assert found["dense"]["ms"] is not None
    assert all(found[name]["ms"] is None for name in ("wrong", "shape", "broken"))
    assert found["broken"]["fault"] == "does not run"
    assert "error" in found["wrong"]["fault"]


def _broken() -> torch.Tensor:
    raise RuntimeError("does not run\nbecause")


def test_needs_a_card() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            gpu.main([])

"""The benchmark of the GPU, tried out on the CPU: what it checks, what it keeps, where it goes on."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.cases import Case, cases, moment_cases
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


def _case(calls: dict, expected: Callable[[], list[torch.Tensor]] = lambda: [torch.ones(4, 4).double()]) -> Case:
    return Case("case", torch.float32, 0.5, 1, calls, expected)


def _rows(case: Case) -> dict[str, dict]:
    return {row["impl"]: row for row in gpu.rows(case, Stopwatch(HERE), "cpu")}


def test_ratios_are_to_the_dense_call_alone() -> None:
    found = _rows(_case({"dense": _broken, "other": lambda: torch.ones(4, 4)}))
    assert found["other"]["ms"] is not None
    assert found["other"]["ratio_to_dense"] is None
    assert [row["ms"] for row in _rows(_case({"dense": _broken, "other": _broken})).values()] == [None, None]


def test_a_mistake_of_the_benchmark_is_no_fault_of_a_call() -> None:
    with pytest.raises(AttributeError):
        _rows(_case({"dense": lambda: torch.ones(4, 4).no_such_name}))


def test_what_is_expected_is_computed_once() -> None:
    made = []

    def expected() -> list[torch.Tensor]:
        made.append(1)
        return [torch.ones(4, 4).double()]

    _rows(_case({name: lambda: torch.ones(4, 4) for name in "abc"}, expected))
    assert made == [1]


def test_a_case_is_measured_once_on_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = []

    def make() -> list[Case]:
        numbers.append(torch.randn(4, 4))
        return [_case({"dense": lambda x=numbers[-1]: x}, lambda x=numbers[-1]: [x.double()])]

    monkeypatch.setattr(gpu, "cases", lambda device, quick: iter([make, make]))
    for _ in range(2):
        assert gpu.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    assert len(_report(tmp_path)["rows"]) == 1
    assert len(numbers) == 4
    assert all(torch.equal(numbers[0], x) for x in numbers)


def test_a_failed_device_ends_the_run_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> torch.Tensor:
        raise torch.AcceleratorError("an illegal memory access\nwas made")

    def makers(device: torch.device, quick: bool) -> Iterator[Callable[[], list[Case]]]:
        yield lambda: [_case({"dense": fail, "other": lambda: torch.ones(4, 4)})]
        yield lambda: [replace(_case({"dense": lambda: torch.ones(4, 4)}), name="next")]

    monkeypatch.setattr(gpu, "cases", makers)
    flags = ["--device", "cpu", "--out", str(tmp_path)]
    with pytest.raises(torch.AcceleratorError):
        gpu.main(flags)
    assert {row["fault"] for row in _report(tmp_path)["rows"]} == {"an illegal memory access"}
    assert gpu.main(flags) == 0
    assert [row["case"] for row in _report(tmp_path)["rows"]] == ["case", "case", "next"]


def test_what_is_tuned_is_used_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = pytest.importorskip("sparsekern.ops.triton.launch")
    called = []

    def call(name: str) -> torch.Tensor:
        called.append((name, dict(launch._tuning or {})))
        launch._tuning[name] = {"float32": 1}
        return torch.ones(4, 4)

    def makers(device: torch.device, quick: bool) -> Iterator[Callable[[], list[Case]]]:
        for name in ("one", "two"):
            yield lambda name=name: [replace(_case({"dense": lambda: call(name)}), name=name)]

    monkeypatch.setattr(gpu, "cases", makers)
    flags = ["--device", "cpu", "--tune", "--out", str(tmp_path)]
    assert gpu.main([*flags, "--case", "one"]) == 0
    assert called[0] == ("one", {})
    assert all(known == ("one", {"one": {"float32": 1}}) for known in called[1:])
    assert gpu.main(flags) == 0
    assert ("two", {"one": {"float32": 1}}) in called
    assert {*_report(tmp_path)["configurations"]} == {"one", "two"}


def test_no_two_problems_are_the_same_case() -> None:
    nowhere = torch.device("meta")
    made = [case for make in cases(nowhere) if make.func is moment_cases for case in make()]
    names = [(case.name, case.dtype, case.batch) for case in made]
    assert len(names) > 10
    assert len(set(names)) == len(names)


def _report(folder: Path) -> dict:
    (path,) = folder.glob("gpu-cpu-*.json")
    return json.loads(path.read_text())


def test_needs_a_card() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            gpu.main([])

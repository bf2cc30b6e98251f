"""The benchmark of the GPU, tried out on the CPU: what it checks, what it keeps, where it goes on."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from sparsekern.bench import cli
from sparsekern.bench.gpu import measure as measuring
from sparsekern.bench.gpu import timing
from sparsekern.bench.gpu.case import Case
from sparsekern.bench.gpu.moments import moment_cases
from sparsekern.bench.gpu.suite import QUICK, SUITE
from sparsekern.bench.gpu.threshold import threshold_cases
from sparsekern.bench.gpu.timing import Stopwatch
from sparsekern.bench.moments import Conv2d, Linear
from sparsekern.cli import main

FIELDS = {"case", "impl", "device", "dtype", "sparsity", "batch", "ms", "ratio_to_dense", "bytes"}

HERE = torch.device("cpu")


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ROUNDS", 2)


def _report(folder: Path) -> dict:
    (path,) = folder.glob("gpu-cpu-*.json")
    return json.loads(path.read_text())


def test_measures_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--device", "cpu", "--quick", "--out", str(tmp_path)]
    assert gpu.main([*flags, "--case", "forward 96x160 90%"]) == 0
    rows = _report(tmp_path)["rows"]
    assert {(row["benchmark"], row["case"], row["sparsity"]) for row in rows} == {("kernels", "forward 96x160", 0.9)}
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16"}
    assert all(set(row) >= FIELDS for row in rows)
    timed = {row["impl"] for row in rows if row["ms"] is not None}
    assert {"dense", "masked", "sparsekern-expanded", "sparsekern-fused"} <= timed
    capsys.readouterr()
    assert gpu.main(flags) == 0
    again = _report(tmp_path)["rows"]
    assert again[: len(rows)] == rows
    assert {row["benchmark"] for row in again} == {*SUITE}
    assert {row["sparsity"] for row in again if row["benchmark"] == "convolutions"} == {0.8, 0.9, 0.95, 0.98}
    dense = [row for row in again if row["impl"] in ("dense", "torch.topk")]
    assert all(row["ratio_to_dense"] == 1 for row in dense)
    assert not [row for row in again if row.get("missing", "").startswith("wrong")]
    printed = capsys.readouterr()
    assert "# Convolutions" in printed.out
    assert "goes on" not in printed.err
    assert gpu.main([*flags, "--minutes", "0"]) == gpu.UNFINISHED
    assert "goes on" in capsys.readouterr().err
    (path,) = tmp_path.glob("gpu-cpu-*.json")
    path.write_text(json.dumps(_report(tmp_path) | {"torch": "2.0"}))
    with pytest.raises(SystemExit, match="2"):
        gpu.main(flags)
    assert "has torch 2.0, not " in capsys.readouterr().err


@pytest.mark.parametrize("layer", [problem[0] for problem in QUICK["moments"]], ids=lambda layer: layer.shape)
def test_moments_are_compared_with_backpack(layer: Linear | Conv2d) -> None:
    for case in moment_cases(layer, torch.float32, HERE):
        names = ["dense", "backpack", "dpf", "sparsekern", "sparsekern-snr"]
        if case.name.startswith("gradient"):
            names = ["dense", "sparsekern"] + ["two-products"] * (layer.shape == "linear/96-160")
        assert [*case.calls, *case.missing] == names or "backpack" in case.missing
        for name, call in case.calls.items():
            results = [result.detach() for result in as_tuple(call())]
            assert case.error(results) < case.tolerance
            assert len(results) == len(case.expected()) - (name in ("dense", "dpf"))
            results[-1] = 1.01 * results[-1]
            assert case.error(results) > case.tolerance, "the last result is not looked at"


def as_tuple(results: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (results,) if isinstance(results, torch.Tensor) else results


def test_equal_magnitudes_are_all_marked_or_none() -> None:
    (case,) = threshold_cases(2000, torch.bfloat16, HERE)
    assert all(case.error(call()) == 0 for call in case.calls.values())


def test_a_wrong_result_gets_no_number() -> None:
    right = torch.ones(4, 4)
    calls = {"dense": lambda: right, "wrong": lambda: 2 * right, "shape": lambda: right[:2], "broken": _broken}
    found = _rows(_case(calls, lambda: [right.double()]))
    assert found["dense"]["ms"] is not None
    assert all(found[name]["ms"] is None for name in ("wrong", "shape", "broken"))
    assert found["broken"]["missing"] == "failed: does not run"
    assert found["wrong"]["missing"].startswith("wrong: relative error")


def test_a_kernel_that_does_not_fit_gets_no_number() -> None:
    errors = pytest.importorskip("triton.runtime.errors", reason="comes with the CUDA build of PyTorch")

    def large() -> torch.Tensor:
        raise errors.OutOfResources(300_000, 200_000, "shared memory")

    found = _rows(_case({"dense": lambda: torch.ones(4, 4), "large": large}))
    assert found["large"]["missing"].startswith("failed: OutOfResources: out of resource: shared memory")
    assert found["large"]["ms"] is None


def _broken() -> torch.Tensor:
    raise RuntimeError("does not run\nbecause")


def _case(calls: dict, expected: Callable[[], list[torch.Tensor]] = lambda: [torch.ones(4, 4).double()]) -> Case:
    return Case("case", torch.float32, 0.5, 1, calls, expected)


def _rows(case: Case) -> dict[str, dict]:
    return {row["impl"]: row for row in measuring.rows(case, Stopwatch(HERE))}


def _only(monkeypatch: pytest.MonkeyPatch, *makers: Callable[[], list[Case]]) -> None:
    """Nothing else is measured."""
    monkeypatch.setattr(measuring, "suite", lambda kind, device, quick: makers if kind == "kernels" else ())


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

    _only(monkeypatch, make, make)
    for _ in range(2):
        assert gpu.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    assert len(_report(tmp_path)["rows"]) == 1
    assert len(numbers) == 4
    assert all(torch.equal(numbers[0], x) for x in numbers)


def test_a_failed_device_ends_the_run_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> torch.Tensor:
        raise torch.AcceleratorError("an illegal memory access\nwas made")

    _only(
        monkeypatch,
        lambda: [_case({"dense": fail, "other": lambda: torch.ones(4, 4)})],
        lambda: [replace(_case({"dense": lambda: torch.ones(4, 4)}), name="next")],
    )
    flags = ["--device", "cpu", "--out", str(tmp_path)]
    with pytest.raises(torch.AcceleratorError):
        gpu.main(flags)
    assert {row["missing"] for row in _report(tmp_path)["rows"]} == {"an illegal memory access"}
    assert gpu.main(flags) == 0
    assert [row["case"] for row in _report(tmp_path)["rows"]] == ["case", "case", "next"]


def test_what_is_tuned_is_used_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = pytest.importorskip("sparsekern.ops.triton.launch")
    called = []

    def call(name: str) -> torch.Tensor:
        called.append((name, dict(launch._tuning or {})))
        launch._tuning[name] = {"float32": 1}
        return torch.ones(4, 4)

    _only(
        monkeypatch,
        lambda: [replace(_case({"dense": lambda: call("one")}), name="one")],
        lambda: [replace(_case({"dense": lambda: call("two")}), name="two")],
    )
    flags = ["--device", "cpu", "--tune", "--out", str(tmp_path)]
    assert gpu.main([*flags, "--case", "one"]) == 0
    assert called[0] == ("one", {})
    assert all(known == ("one", {"one": {"float32": 1}}) for known in called[1:])
    assert gpu.main(flags) == 0
    assert ("two", {"one": {"float32": 1}}) in called
    assert {*_report(tmp_path)["configurations"]} == {"one", "two"}


def test_no_two_problems_are_the_same_case() -> None:
    for kind, (_, problems) in SUITE.items():
        names = [(p[0].shape, p[0].batch) if kind == "moments" else p for p in problems]
        assert len(set(names)) == len(names), kind


def test_fp32_is_strict_for_everyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before, seen = [setting.fp32_precision for setting in settings], []

    def call() -> torch.Tensor:
        seen.append([setting.fp32_precision for setting in settings])
        return torch.ones(4, 4)

    _only(monkeypatch, lambda: [_case({"dense": call})])
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    assert all(precisions == ["ieee", "ieee"] for precisions in seen)
    assert [setting.fp32_precision for setting in settings] == before


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)

    def run(*flags: str) -> int:
        return cli.measured(parser.parse_args([*flags, "--device", "cuda", "--quick", "--json", str(path)]), HERE)

    path = tmp_path / "moments.json"
    assert run("moments", "--case", "step conv", "--impl", "sparsekern") == 0
    assert "moment / BackPACK's" in capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["benchmark"] == "moments"
    assert {row["impl"] for row in found["rows"]} == {"dense", "sparsekern"}
    assert run("kernels", "--impl", "nobody") == 2
    assert "sparsekern-bits" in capsys.readouterr().err
    assert run("threshold", "--case", "nothing") == 2
    assert "nothing" in capsys.readouterr().err


def test_the_command_hands_a_gpu_over(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cli, "measured", lambda arguments, device: measured.append((arguments.what, str(device))) or 0)
    monkeypatch.setattr(cli, "_kernels", lambda *_: "the CPU is not measured")
    monkeypatch.setattr(cli.calibrate, "run", lambda **_: {})
    for module in (cli.train, cli.memory):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, "run", lambda device, name=name, **_: measured.append((name, device)) or {})
    monkeypatch.setattr(cli.table, "markdown", lambda report: "")
    for what in (*SUITE, "train", "memory"):
        assert main(["bench", what, "--device", "cuda"]) == 0
    assert measured == [(what, "cuda") for what in (*SUITE, "train", "memory")]
    assert main(["bench", "kernels", "--device", "cuda", "--calibrate", "--json", "x"]) == 2


@pytest.mark.parametrize("what", ["kernels", "convolutions", "moments", "threshold", "train", "memory"])
def test_needs_a_card(what: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", what, "--device", "cuda", "--quick"]) == 2
    assert "there is no CUDA device" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        gpu.main([])
    assert ended.value.code == 2

"""The benchmark of the GPU, tried out on the CPU: what it checks, what it keeps, where it goes on."""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from sparsekern.bench import gpu_timing, measure
from sparsekern.bench.case import Case, Suite, cases
from sparsekern.bench.convolutions import Conv
from sparsekern.bench.gpu_timing import GpuTimer
from sparsekern.bench.moments import GPU_QUICK, Sequences
from sparsekern.bench.peer import Implementation, Peer
from sparsekern.bench.problem import deviation
from sparsekern.bench.suites import SUITES
from sparsekern.bench.threshold import LargestMask, Vector
from sparsekern.cli import bench as cli
from sparsekern.cli import main
from sparsekern.cli.bench_options import add_benchmarks
from sparsekern.errors import UsageError

FIELDS = {"case", "impl", "device", "dtype", "sparsity", "batch", "ms", "ratio_to_dense", "bytes"}

HERE = torch.device("cpu")


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_timing, "ROUNDS", 2)


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
    assert {row["benchmark"] for row in again} == {*SUITES["cuda"]}
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


@pytest.mark.parametrize("layer", GPU_QUICK, ids=lambda layer: layer.shape)
def test_moments_are_compared_with_backpack(layer: Sequences | Conv) -> None:
    suite = SUITES["cuda"]["moments"]
    problem = suite.problem(layer, HERE)
    for op in ("gradient", "step"):
        names = ["dense", "backpack", "dpf", "sparsekern", "sparsekern-snr"]
        if op == "gradient":
            names = ["dense", "sparsekern"] + ["two-products"] * (layer.shape == "linear/96-160")
        offered = [peer for peer in suite.peers if op in peer.ops and peer.offers(layer)]
        assert [peer.name for peer in offered] == names
        for peer in offered:
            if peer.why_not(layer.dtype):
                continue
            results = [result.detach() for result in peer.build(problem, op).call()]
            assert problem.error(op, tuple(results)) < problem.tolerance
            assert len(results) == len(problem.expected(op)) - (peer.name in ("dense", "dpf"))
            results[-1] = 1.01 * results[-1]
            assert problem.error(op, tuple(results)) > problem.tolerance, "the last result is not looked at"


def test_equal_magnitudes_are_all_marked_or_none() -> None:
    problem = LargestMask(Vector(2000, "2,000", 0.9, 1, "bfloat16"))
    for peer in SUITES["cuda"]["threshold"].peers:
        assert problem.error("topk_mask", (peer.build(problem, "topk_mask").call(),)) == 0


def test_a_wrong_result_gets_no_number() -> None:
    right = torch.ones(4, 4)
    calls = {"dense": lambda: right, "wrong": lambda: 2 * right, "shape": lambda: right[:2], "broken": _broken}
    found = _rows(calls, lambda: right)
    assert found["dense"]["ms"] is not None
    assert all(found[name]["ms"] is None for name in ("wrong", "shape", "broken"))
    assert found["broken"]["missing"] == "failed: does not run"
    assert found["wrong"]["missing"].startswith("wrong: relative error")


def test_a_kernel_that_does_not_fit_gets_no_number() -> None:
    errors = pytest.importorskip("triton.runtime.errors", reason="comes with the CUDA build of PyTorch")

    def large() -> torch.Tensor:
        raise errors.OutOfResources(300_000, 200_000, "shared memory")

    found = _rows({"dense": lambda: torch.ones(4, 4), "large": large})
    assert found["large"]["missing"].startswith("failed: OutOfResources: out of resource: shared memory")
    assert found["large"]["ms"] is None


def _broken() -> torch.Tensor:
    raise RuntimeError("does not run\nbecause")


@dataclass(frozen=True)
class Given:
    """A layer on which calls are given."""

    shape: str = "given"
    dtype: str = "float32"
    sparsity: float = 0.5
    batch: int = 1
    macs: int = 0


Calls = dict[str, Callable[[], torch.Tensor]]


class GivenProblem:
    tolerance, device = 1e-4, HERE

    def __init__(self, layer: Given, expected: Callable[[], torch.Tensor]) -> None:
        self.layer, self.expected = layer, expected

    @cached_property
    def exact(self) -> torch.Tensor:
        return self.expected().double()

    def error(self, op: str, results: tuple) -> float:
        return deviation(results[0], self.exact)


def _ones() -> torch.Tensor:
    return torch.ones(4, 4)


def _suite(calls: dict[str, Calls], expected: Callable[[], torch.Tensor] = _ones) -> Suite:
    """A suite of a layer for each entry, with the calls of that."""
    names = dict.fromkeys(name for own in calls.values() for name in own)
    peers = [
        Peer(
            name,
            ("case",),
            lambda p, op, name=name: Implementation(calls[p.layer.shape][name]),
            lambda: "1",
            offers=lambda layer, name=name: name in calls[layer.shape],
        )
        for name in names
    ]
    layers = [Given(shape) for shape in calls]
    return Suite(tuple(peers), lambda quick: cases(layers, ("case",)), lambda layer, _: GivenProblem(layer, expected))


def _rows(calls: Calls, expected: Callable[[], torch.Tensor] = _ones) -> dict[str, dict]:
    problem, peers = GivenProblem(Given(), expected), _suite({"given": calls}).peers
    return {row["impl"]: row for row in measure.rows(problem, Case(Given(), "case"), peers, GpuTimer(HERE))}


def _only(monkeypatch: pytest.MonkeyPatch, suite: Suite) -> None:
    """Nothing else is measured."""
    for kind in SUITES["cuda"]:
        monkeypatch.setitem(SUITES["cuda"], kind, suite if kind == "kernels" else Suite((), lambda quick: [], Given))


def test_ratios_are_to_the_dense_call_alone() -> None:
    found = _rows({"dense": _broken, "other": _ones})
    assert found["other"]["ms"] is not None
    assert found["other"]["ratio_to_dense"] is None
    assert [row["ms"] for row in _rows({"dense": _broken, "other": _broken}).values()] == [None, None]


def test_a_mistake_of_the_benchmark_is_no_fault_of_a_call() -> None:
    with pytest.raises(AttributeError):
        _rows({"dense": lambda: torch.ones(4, 4).no_such_name})


def test_what_is_expected_is_computed_once() -> None:
    made = []

    def expected() -> torch.Tensor:
        made.append(1)
        return torch.ones(4, 4)

    _rows(dict.fromkeys("abc", _ones), expected)
    assert made == [1]


def test_a_case_is_measured_once_on_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = []

    def make(layer: Given, device: torch.device) -> GivenProblem:
        numbers.append(torch.randn(4, 4))
        return GivenProblem(layer, lambda x=numbers[-1]: x)

    calls: dict[str, Calls] = {shape: {"dense": lambda: numbers[-1]} for shape in ("one", "two")}
    _only(monkeypatch, replace(_suite(calls), problem=make))
    for _ in range(2):
        assert gpu.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    assert len(_report(tmp_path)["rows"]) == 2
    assert len(numbers) == 2
    assert all(torch.equal(numbers[0], x) for x in numbers)


def test_a_failed_device_ends_the_run_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> torch.Tensor:
        raise torch.AcceleratorError("an illegal memory access\nwas made")

    _only(monkeypatch, _suite({"one": {"dense": fail, "other": _ones}, "next": {"dense": _ones}}))
    flags = ["--device", "cpu", "--out", str(tmp_path)]
    with pytest.raises(torch.AcceleratorError):
        gpu.main(flags)
    assert {row["missing"] for row in _report(tmp_path)["rows"]} == {"an illegal memory access"}
    assert gpu.main(flags) == 0
    assert [row["case"] for row in _report(tmp_path)["rows"]] == ["case one", "case one", "case next"]


def test_what_is_tuned_is_used_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = pytest.importorskip("sparsekern.ops.triton.launch")
    called = []

    def call(name: str) -> torch.Tensor:
        called.append((name, dict(launch._tuning or {})))
        launch._tuning[name] = {"float32": 1}
        return torch.ones(4, 4)

    _only(monkeypatch, _suite({"one": {"dense": lambda: call("one")}, "two": {"dense": lambda: call("two")}}))
    flags = ["--device", "cpu", "--tune", "--out", str(tmp_path)]
    assert gpu.main([*flags, "--case", "one"]) == 0
    assert called[0] == ("one", {})
    assert all(known == ("one", {"one": {"float32": 1}}) for known in called[1:])
    assert gpu.main(flags) == 0
    assert ("two", {"one": {"float32": 1}}) in called
    assert {*_report(tmp_path)["configurations"]} == {"one", "two"}


def test_no_two_problems_are_the_same_case() -> None:
    for device, suites in SUITES.items():
        for kind, suite in suites.items():
            labels = [case.label for case in suite.cases(False)]
            assert len(set(labels)) == len(labels), (device, kind)


def test_fp32_is_strict_for_everyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before, seen = [setting.fp32_precision for setting in settings], []

    def call() -> torch.Tensor:
        seen.append([setting.fp32_precision for setting in settings])
        return torch.ones(4, 4)

    _only(monkeypatch, _suite({"given": {"dense": call}}))
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    assert all(precisions == ["ieee", "ieee"] for precisions in seen)
    assert [setting.fp32_precision for setting in settings] == before


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    parser = argparse.ArgumentParser()
    add_benchmarks(parser)

    def run(*flags: str) -> int:
        arguments = parser.parse_args([*flags, "--device", "cuda", "--quick", "--json", str(path)])
        return cli.measured(arguments, HERE, "cuda")

    path = tmp_path / "moments.json"
    assert run("moments", "--case", "step conv", "--impl", "sparsekern") == 0
    assert "moment / BackPACK's" in capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["benchmark"] == "moments"
    assert {row["impl"] for row in found["rows"]} == {"dense", "sparsekern"}
    with pytest.raises(UsageError, match=r"unknown --impl nobody; known: .*sparsekern-bits"):
        run("kernels", "--impl", "nobody")
    with pytest.raises(UsageError, match="no case has all the words of --case 'nothing'"):
        run("threshold", "--case", "nothing")


def test_the_command_hands_a_gpu_over(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cli, "measured", lambda arguments, device: measured.append((arguments.what, str(device))) or 0)
    for name, module in (("train", cli.training_step), ("memory", cli.memory)):
        monkeypatch.setattr(module, "run", lambda device, name=name, **_: measured.append((name, device)) or {})
    monkeypatch.setattr(cli.markdown, "render", lambda report: "")
    for what in (*SUITES["cuda"], "train", "memory"):
        assert main(["bench", what, "--device", "cuda"]) == 0
    assert measured == [(what, "cuda") for what in (*SUITES["cuda"], "train", "memory")]


@pytest.mark.parametrize("what", ["kernels", "convolutions", "moments", "threshold", "train", "memory"])
def test_needs_a_card(what: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", what, "--device", "cuda", "--quick"]) == 2
    assert "there is no CUDA device" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        gpu.main([])
    assert ended.value.code == 2

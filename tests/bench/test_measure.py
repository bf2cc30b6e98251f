"""The benchmark measures every implementation, checks it first, keeps what it wrote. No test is about speed."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsekern.bench import linear_peers, markdown, measure, memory, mkl, peak_memory, report, threshold
from sparsekern.bench.case import OPS, Layer, Suite, cases
from sparsekern.bench.linear import Linear, cpu_cases
from sparsekern.bench.linear_peers import PEERS
from sparsekern.bench.network_step import BATCH
from sparsekern.bench.peer import Implementation, Peer
from sparsekern.bench.problem import Problem
from sparsekern.bench.timing import CpuTimer, Timing, _visits, interleave, pinned
from sparsekern.cli import main
from sparsekern.errors import RunError

FIELDS = {"case", "impl", "device", "dtype", "sparsity", "batch", "ms", "ratio_to_dense", "bytes"}
MEASURED = FIELDS | {"min_ms", "q1_ms", "q3_ms", "n", "error", "threads"}
LAYER = Linear(96, 64, 32, 0.9)


def run(*peers: Peer, ops: tuple[str, ...] = OPS, layer: Layer = LAYER, **options: Any) -> dict:
    suite = Suite(peers, lambda quick: cases([layer], ops), Problem)
    return measure.run("kernels", suite=suite, threads=1, budget=0.005, **options)


@pytest.fixture
def no_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.compile` takes ten seconds; another test does."""
    monkeypatch.setattr(linear_peers, "compiled", lambda forward, *shape: forward)


def named(name: str) -> Peer:
    return next(peer for peer in PEERS if peer.name == name)


@pytest.mark.usefixtures("no_compilation")
def test_a_row_for_every_implementation_with_every_field() -> None:
    found = run(*PEERS)
    rows = found["rows"]
    assert [(row["case"], row["impl"]) for row in rows] == [
        (f"{op} 96x64", peer.name) for op in OPS for peer in PEERS if op in peer.ops
    ]
    assert found["complete"]
    assert set(found["peers"]) == {peer.name for peer in PEERS}
    installed = {"mkl", "mkl-column", "scipy", "sparseprop"}
    always = {peer.name for peer in PEERS} - installed
    for row in rows:
        if row["impl"] in always:
            assert set(row) == MEASURED
            assert 0 < row["min_ms"] <= row["q1_ms"] <= row["ms"] <= row["q3_ms"]
            assert row["n"] >= 5
        else:  # installed, or reported as missing
            assert set(row) == MEASURED or (row["ms"] is None and "not installed" in row["missing"])
    assert all(row["ratio_to_dense"] == 1 for row in rows if row["impl"] == "dense")


@pytest.mark.usefixtures("no_compilation")
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes(dtype: str) -> None:
    rows = run(*PEERS, ops=("forward", "step"), layer=replace(LAYER, dtype=dtype))["rows"]
    assert {row["dtype"] for row in rows} == {dtype}
    for row in rows:
        if row["impl"] in ("dense", "dense-compiled", "sparsekern", "sparsekern-csr"):
            assert row["ms"] is not None
        if row["impl"] in ("mkl", "sparseprop", "dense-bf16", "sparsekern-bf16"):
            assert row["ms"] is None


@pytest.mark.parametrize("op", OPS)
def test_a_wrong_result_gets_no_number(op: str) -> None:
    right = named("sparsekern-csr")

    def build(problem: Problem, op: str) -> Implementation:
        implementation = right.build(problem, op)

        def call() -> Any:
            result = implementation.call()
            results = list(result) if isinstance(result, tuple) else [result]
            results[-1] = results[-1] + 1e-3 * results[-1].abs().max()
            return tuple(results)

        return Implementation(call, implementation.bytes)

    rows = run(named("dense"), right, replace(right, name="off", build=build), ops=(op,))["rows"]
    assert [row["ms"] is None for row in rows] == [False, False, True]
    assert rows[2]["ratio_to_dense"] is None
    assert rows[2]["missing"].startswith("wrong")
    text = markdown.render({"benchmark": "kernels", **report.header("kernels", 1), "rows": rows})
    assert "off" not in text.split("No number")[0]


@pytest.mark.parametrize(
    "result",
    [torch.full((32, 64), float("nan")), torch.zeros(64, 32), (torch.zeros(32, 64), torch.zeros(1))],
    ids=["nan", "transposed", "too many"],
)
def test_what_is_no_result(result: Any) -> None:
    peer = replace(named("dense"), name="bad", build=lambda p, op: Implementation(lambda: result, 0))
    bad = run(named("dense"), peer, ops=("forward",))["rows"][1]
    assert bad["ms"] is None
    assert "wrong" in bad["missing"]


def test_a_missing_or_failing_peer_is_reported() -> None:
    def fail(problem: Problem, op: str) -> Implementation:
        raise RuntimeError("no such kernel\nand more")

    absent = replace(named("scipy"), name="absent", missing=lambda: "not installed: absent")
    found = run(named("dense"), absent, replace(named("dense"), name="failing", build=fail), ops=("forward",))
    rows = {row["impl"]: row for row in found["rows"]}
    assert found["peers"]["absent"] == "missing: not installed: absent"
    assert rows["absent"]["missing"] == "not installed: absent"
    assert rows["failing"]["missing"] == "failed: no such kernel"
    text = markdown.render(found)
    assert "absent (missing: not installed: absent)" in text
    assert "failing: failed: no such kernel" in text


def test_mkl_product_in_both_layouts() -> None:
    if reason := mkl.missing():
        assert "mkl" in reason
        return
    problem = Problem(LAYER)
    for name in ("mkl", "mkl-column"):
        for op in ("forward", "input_gradient"):
            result = named(name).build(problem, op).call()
            assert isinstance(result, torch.Tensor)
            assert problem.error(op, (result,)) <= problem.tolerance


def test_the_suite_covers_what_the_tables_show() -> None:
    every = cpu_cases()
    of = {layer: tuple(c.op for c in every if c.layer == layer) for layer in {c.layer for c in every}}
    layers = {(layer.in_features, layer.out_features, layer.batch) for layer in of if of[layer] == OPS}
    assert layers == {(784, 512, 128), *((1024, 1024, b) for b in (32, 128, 512)), (4096, 4096, 128)}
    assert {layer.sparsity for layer in of if of[layer] == OPS} == {0.3, 0.4, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99}
    assert {layer.dtype for layer in of} == {"float32", "bfloat16", "float64"}
    assert len(cpu_cases(quick=True)) < len(every) / 10


def test_reports_are_saved_as_they_grow_and_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "kernels.json"
    states = []

    def save(found: dict) -> None:
        report.write(path, found)
        states.append(json.loads(path.read_text())["complete"])

    chosen = cases([LAYER, replace(LAYER, sparsity=0.5)], ("forward",))
    suite = Suite((named("dense"),), lambda quick: chosen, Problem)
    found = measure.run("kernels", suite=suite, threads=1, budget=0.005, save=save)
    assert states == [False, True]
    assert json.loads(path.read_text()) == found
    with pytest.raises(TypeError):
        report.write(path, {"benchmark": "kernels", "rows": [{"ms": object()}]})
    assert json.loads(path.read_text()) == found
    assert os.listdir(path.parent) == ["kernels.json"]


def test_a_failed_rename_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match=r"cannot write .*folder"):
        report.write(tmp_path / "folder", {"rows": []})
    assert os.listdir(tmp_path) == ["folder"]


def test_interleaving_visits_in_rounds() -> None:
    order = []
    timings = interleave(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, budget=1, watch=lambda n: False
    )
    assert order[6:] == (["a"] * 3 + ["b"] * 3) * 15
    assert [len(t.samples) for t in timings.values()] == [30, 30]


def test_slow_implementations_sit_rounds_out() -> None:
    visits = _visits({"fast": 0.001, "slow": 0.1, "slower": 1.0}, 1.0)
    assert visits == {"fast": 15, "slow": 5, "slower": 3}
    assert _visits({"a": 0.01, "b": 0.01}, 1.0) == {"a": 15, "b": 15}


def test_quartiles() -> None:
    timing = Timing((1.0, 2.0, 3.0, 4.0, 5.0))
    assert (timing.median, timing.quartiles, timing.noisy) == (3.0, (2.0, 4.0), True)
    assert not Timing((1.0, 1.0, 1.0, 1.1, 9.0)).noisy


def test_threads_are_restored() -> None:
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    before = torch.get_num_threads()
    with pinned(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    if allowed is not None:
        assert os.sched_getaffinity(0) == allowed


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.3, 1.2), (0.5, 0.8), (0.9, 0.2)], "40%"),
        ([(0.3, 0.9), (0.5, 0.8)], "below 30%"),
        ([(0.3, 1.4), (0.5, 1.1)], "not by 50%"),
        ([(0.3, 0.9), (0.5, 1.5), (0.9, 0.5)], "70%"),
    ],
)
def test_crossover(points: list[tuple[float, float]], expected: str) -> None:
    assert markdown.crossover(points) == expected


def test_threshold_gives_no_number_to_a_wrong_answer() -> None:
    wrong = Peer("wrong", (threshold.VALUE,), lambda p, op: Implementation(lambda: 0.5), lambda: "1")
    (case,) = threshold.cpu_cases(quick=True)
    problem = threshold.KthLargest(replace(case.layer, size=2000))
    rows = measure.rows(problem, case, (*threshold.PEERS, wrong), CpuTimer(0.01))
    names = [peer.name for peer in threshold.PEERS]
    assert {row["impl"]: row["ms"] is None for row in rows} == dict.fromkeys(names, False) | {"wrong": True}
    assert all(set(row) >= FIELDS for row in rows)


def test_memory_of_a_step_is_ordered_as_the_storage_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "PROCESSES", 1)
    width = 1536
    dense, ours = (
        peak_memory.median("sparsekern.bench.memory", "mlp", variant, sparsity, str(width), "1", "cpu")
        for variant, sparsity in (("dense", "0"), ("sparsekern", "0.98"))
    )
    weights = memory.LAYERS * width * width * 4
    assert dense["bytes"] > 3 * weights  # weights, gradients, momentum
    assert ours["bytes"] < dense["bytes"] / 2
    assert (dense["n"], dense["least"]) == (1, dense["bytes"])
    biases = memory.LAYERS * width * 4
    samples = BATCH * 4
    assert dense["lines"] == {
        **dict.fromkeys(("values", "gradients", "optimizer"), weights + biases),
        **dict.fromkeys(("indices", "slack", "scratch"), 0),
        # the inputs of the layers, which are the outputs of ReLU; the softmax; the labels and their weight
        "activations": pytest.approx((3 * width + width + 2) * samples, abs=64),
    }
    assert ours["lines"]["values"] == pytest.approx(0.02 * weights + biases, abs=64)
    assert ours["lines"]["activations"] == dense["lines"]["activations"]


def test_command_writes_the_report_and_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "threshold.json"
    assert main(["bench", "threshold", "--quick", "--threads", "1", "--json", str(path)]) == 0
    assert "torch.kthvalue" in capsys.readouterr().out
    rows = json.loads(path.read_text())["rows"]
    assert all(set(row) >= FIELDS for row in rows)


@pytest.mark.parametrize(
    "flags",
    [
        ["nonsense"],
        ["kernels", "--device", "tpu"],
        ["kernels", "--threads", "0"],
    ],
)
def test_wrong_usage(flags: list[str]) -> None:
    assert main(["bench", *flags]) == 2


def test_a_target_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    assert main(["bench", "kernels", "--json", str(tmp_path)]) == 2
    (tmp_path / "file").touch()
    assert main(["bench", "kernels", "--json", str(tmp_path / "file" / "k.json")]) == 2

"""Convolutions in the benchmark: right results are told from wrong ones, cases are chosen by words."""

import json
from pathlib import Path

import pytest
from torch.nn.functional import conv2d

from sparsekern.bench import convolution_peers, measure
from sparsekern.bench.case import OPS, Case, Suite, cases, matching
from sparsekern.bench.convolution_peers import PEERS
from sparsekern.bench.convolutions import Conv, ConvProblem, cpu_cases
from sparsekern.bench.peer import Implementation, Peer
from sparsekern.cli import main

CONVS = [
    Conv(8, 16, 8, 8, 0.8),
    Conv(16, 8, 8, 8, 0.8, kernel=1),
    Conv(8, 16, 8, 8, 0.8, stride=2),
    Conv(8, 8, 7, 1, 0.8),
]


def run(layer: Conv, ops: tuple[str, ...] = OPS, peers: tuple[Peer, ...] = PEERS) -> list[dict]:
    suite = Suite(peers, lambda quick: cases([layer], ops), ConvProblem)
    return measure.run("convolutions", suite=suite, threads=1, budget=0.005)["rows"]


@pytest.mark.parametrize("layer", CONVS, ids=lambda layer: layer.shape)
def test_every_implementation_is_right_or_says_why_not(layer: Conv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution_peers, "compiled", lambda forward, *shape: forward)
    rows = run(layer)
    assert [(row["case"], row["impl"]) for row in rows] == [
        (f"{op} {layer.shape}", peer.name) for op in OPS for peer in PEERS if op in peer.ops
    ]
    for row in rows:
        if row["impl"].startswith("sparseprop"):
            assert row["ms"] or row["missing"].startswith(("not installed", "wrong"))
        else:
            assert row["ms"] > 0
            assert row["error"] < (2e-2 if row["impl"].endswith("bf16") else 1e-5)


def test_a_wrong_gradient_gets_no_number() -> None:
    right = next(peer for peer in PEERS if peer.name == "sparsekern-csr")

    def build(problem: ConvProblem, op: str) -> Implementation:
        implementation = right.build(problem, op)

        def call() -> tuple:
            output, grad_x, *others = implementation.call()
            return output, grad_x.flip(2), *others

        return Implementation(call, implementation.bytes)

    peers = (PEERS[0], Peer("flipped", OPS, build, right.version))
    rows = run(CONVS[0], ("step",), peers)
    assert rows[0]["ms"] > 0
    assert rows[1]["ms"] is None
    assert rows[1]["missing"].startswith("wrong")


def test_what_is_expected_is_what_autograd_gives() -> None:
    problem = ConvProblem(CONVS[2])
    x, weight, bias = (t.clone().requires_grad_() for t in (problem.x, problem.dense, problem.bias))
    output = conv2d(x, weight, bias, stride=2, padding=1)
    output.backward(problem.dy)
    assert output.shape == problem.dy.shape
    assert problem.error("step", (output, x.grad, weight.grad, bias.grad)) < 1e-5  # type: ignore[arg-type]
    assert problem.error("step", (output, x.grad, weight.grad, 2 * bias.grad)) > 0.1  # type: ignore[arg-type]


def test_the_suite_covers_what_the_goals_are_about() -> None:
    steps = {(c.layer.shape, c.layer.batch, c.layer.sparsity) for c in cpu_cases() if c.op == "step"}
    for channels, size in ((64, 32), (128, 16), (256, 8), (512, 4)):
        shape = f"conv3x3/{channels}-{channels}/{size}x{size}"
        assert {s for found, batch, s in steps if (found, batch) == (shape, 64)} >= {0.3, 0.4, 0.9, 0.95, 0.98}
    for shape, batch in [
        ("conv1x1/256-64/16x16", 64),
        ("conv3x3s2/64-128/32x32", 64),
        ("conv3x3/64-64/32x32", 1),
        ("conv3x3/256-256/8x8", 8),
    ]:
        assert (shape, batch, 0.9) in steps
    assert len({c.layer for c in cpu_cases(quick=True)}) == 2


def test_cases_are_chosen_by_words() -> None:
    every = cpu_cases()
    found = matching(every, "90% step B=1")
    assert found
    assert {(c.layer.batch, c.layer.sparsity, c.op) for c in found} == {(1, 0.9, "step")}
    assert matching(every, "conv3x3/64-64/32x32 B=64 30%") == [Case(Conv(64, 64, 32, 64, 0.3), "step")]
    assert matching(every, "") == every
    assert matching(every, "linear") == []


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "c.json"
    flags = ["--quick", "--threads", "1", "--case", "forward 95%", "--impl", "sparsekern-csr", "--json", str(path)]
    assert main(["bench", "convolutions", *flags]) == 0
    assert "conv3x3/64-64/8x8 B=16" in capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["benchmark"] == "convolutions"
    assert [row["impl"] for row in found["rows"]] == ["dense", "sparsekern-csr"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["convolutions", "--case", "nonsense"], "one case is"),
        (["convolutions", "--impl", "nonsense"], "known: dense"),
        (["memory", "--case", "90%"], "unrecognized arguments: --case 90%"),
    ],
)
def test_wrong_usage(flags: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", *flags]) == 2
    assert message in capsys.readouterr().err

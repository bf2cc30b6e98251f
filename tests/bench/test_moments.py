"""The benchmark of second moments: every implementation computes the same, a wrong one gets no number."""

import json
from pathlib import Path

import pytest
import torch

from sparsekern.bench import markdown, measure, moment_peers, moments
from sparsekern.bench.case import Suite, cases
from sparsekern.bench.convolutions import Conv
from sparsekern.bench.moment_peers import PEERS
from sparsekern.bench.moments import MomentProblem, Sequences
from sparsekern.bench.peer import Implementation, Peer
from sparsekern.cli import main

LAYERS: list[Sequences | Conv] = [Sequences(20, 16, 6, positions, 0.8) for positions in (0, 5)]
LAYERS += [Conv(4, 6, 8, 5, 0.8), Conv(8, 4, 6, 5, 0.8, 1, 2)]


def run(layer: Sequences | Conv, ops: tuple[str, ...], peers: tuple[Peer, ...] = PEERS) -> dict:
    suite = Suite(peers, lambda quick: cases([layer], ops), MomentProblem)
    return measure.run("moments", suite=suite, threads=1, budget=0.005)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.shape)
def test_every_implementation_is_right(layer: Sequences | Conv) -> None:
    rows = run(layer, moments.OPS)["rows"]
    assert [(row["case"], row["impl"]) for row in rows] == [
        (f"{op} {layer.shape}", peer.name) for op in moments.OPS for peer in PEERS if op in peer.ops
    ]
    for row in rows:
        if row["impl"] == "backpack" and row["ms"] is None:
            assert row["missing"].startswith("not installed")
        else:
            assert row["ms"] > 0
            assert row["error"] < 1e-5


@pytest.mark.parametrize("which", [0, 1])
def test_a_wrong_gradient_or_moment_gets_no_number(which: int) -> None:
    def build(problem: MomentProblem, op: str) -> Implementation:
        right = PEERS[3].build(problem, op)

        def call() -> tuple:
            results = list(right.call())
            results[which] = 1.01 * results[which]
            return tuple(results)

        return Implementation(call, right.bytes)

    peers = (PEERS[0], Peer("wrong", moments.OPS, build, PEERS[3].version))
    rows = run(LAYERS[1], ("gradient",), peers)["rows"]
    assert rows[0]["ms"] > 0
    assert rows[1]["ms"] is None
    assert rows[1]["missing"].startswith("wrong")


def test_what_is_expected_is_summed_before_squaring() -> None:
    problem = MomentProblem(LAYERS[1])
    gradient, moment = problem.expected("gradient")
    parts = torch.einsum("npr,npc->nrc", problem.dy.double(), problem.x.double())
    torch.testing.assert_close(gradient, parts.sum(0))
    torch.testing.assert_close(moment, parts.square().sum(0))


def test_the_suite_covers_what_the_goals_are_about() -> None:
    shapes = {case.layer.shape for case in moments.cpu_cases()}
    assert shapes >= {"linear/1024-1024", "linear/512-512/64", "conv3x3/64-64/32x32", "conv1x1/256-64/16x16"}


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "m.json"
    flags = ["--quick", "--threads", "1", "--case", "step conv", "--json", str(path)]
    assert main(["bench", "moments", *flags]) == 0
    assert "moment / BackPACK's" in capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["benchmark"] == "moments"
    assert [row["impl"] for row in found["rows"]] == [peer.name for peer in PEERS if "step" in peer.ops]


def test_table_leaves_open_what_was_not_measured() -> None:
    report = run(LAYERS[0], ("step",), (PEERS[0], PEERS[3]))
    assert markdown.render(report).rstrip().endswith("|  |  |")


def test_training_changes_the_mask_when_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = []
    step = moment_peers.Sparsifier.step

    def counted(self: moment_peers.Sparsifier) -> None:
        step(self)
        changed.append(self.rewired)

    monkeypatch.setattr(moment_peers.Sparsifier, "step", counted)
    layer = Sequences(20, 16, 6, 0, 0.8)
    for every, changes in ((1, moments.STEPS), (32, 1)):
        problem = MomentProblem(layer)
        call = moment_peers._pruned(problem, moments.TRAINING, every).call
        call()
        changed.clear()
        assert problem.error(moments.TRAINING, call()) < 1e-5
        assert sum(changed) == changes

"""Experiments that rank methods: what the papers' orderings come to, and the tables of costs."""

import pytest
from PIL import Image

from benchmarks.papers import baselines, orderings, ranking, results
from benchmarks.papers.experiments import EXPERIMENTS
from benchmarks.papers.orderings import Claim
from sparsekern import methods
from sparsekern.training import configure
from sparsekern.training.files import write_json, write_lines

CLAIM = Claim("rigl", "set", "Somebody et al.", (0.9,))


def run(what: str, seed: int, accuracy: float, at: float | None = 0.9, empty: bool = False) -> dict:
    return {
        "what": what, "at": at, "seed": seed, "test_accuracy": accuracy, "sparsity": at or 0.0, "nnz": 7,
        "cpu_seconds": [0.004, 0.002, 0.001 * (2 + seed), 0.002], "peak_weight_bytes": 2048 * (1 + seed),
        "model": "m", "data": "d", "epochs": 4, "layers": [{"name": "fc", "sparsity": 1.0 if empty else 0.9}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [
        ((0.97, 0.98), (0.92, 0.93), "holds"),
        ((0.92, 0.93), (0.97, 0.98), "does not hold"),
        ((0.95, 0.97), (0.94, 0.96), "within the spread"),  # of 0.014 each
        ((0.9502, 0.9502), (0.95, 0.95), "within the spread"),  # equal seeds, but the test set is finite
    ],
)
def test_an_ordering_is_judged_by_the_spread(better: tuple, worse: tuple, verdict: str):
    runs = [run("rigl", i, a) for i, a in enumerate(better)] + [run("set", i, a) for i, a in enumerate(worse)]
    found = orderings.judge(CLAIM, 0.9, runs, 10_000)
    assert found is not None
    assert found["verdict"] == verdict
    assert found["accuracies"] == pytest.approx([sum(better) / 2, sum(worse) / 2])


def test_the_deviation_is_that_of_the_difference():
    runs = [run("rigl", 0, 0.96), run("rigl", 1, 0.98), run("set", 0, 0.5)]
    found = orderings.judge(CLAIM, 0.9, runs, 100)
    assert found is not None
    assert found["deviation"] == pytest.approx((max(0.0002, 0.97 * 0.03 / 100) + 0.25 / 100) ** 0.5)
    assert orderings.judge(CLAIM, 0.98, runs, 100) is None
    assert orderings.judge_all((CLAIM, Claim("gmp", "set", "", (0.9,))), runs, 100) == [found]


def test_orderings_are_counted_and_shown_side_by_side():
    claim = Claim("rigl", "set", "Somebody et al.")
    runs = [run("rigl", 0, 0.97), run("set", 0, 0.9), run("rigl", 0, 0.8, 0.98), run("set", 0, 0.9, 0.98)]
    lines = orderings.render(orderings.judge_all((claim,), runs, 10_000))
    first, second = lines[0].split("  \n")
    assert first == "At 90 %: holds 1, within the spread 0, does not hold 0."
    assert second == "At 98 %: holds 0, within the spread 0, does not hold 1."
    assert lines[-1] == "| rigl | set | holds: 97.00, 90.00 | does not hold: 80.00, 90.00 | Somebody et al. |"


def test_costs_stand_beside_those_of_the_dense_network():
    dense = run("dense", 0, 0.99, None) | {"cpu_seconds": [0.01], "peak_weight_bytes": 4096}
    runs = [dense, run("set", 0, 0.9, empty=True), run("rigl", 0, 0.92), run("rigl", 1, 0.94)]
    lines = ranking.tables(runs)
    assert lines[2] == "| dense | 99.00 (1 seed) | 7 | 0.0 % | 10.00 (1.00) | 10.00 (1.00) | 4 (1.00) |"
    assert lines[6] == "| rigl | 93.00 ± 1.41 | 7 | 90.0 % | 2.50 (0.25) | 2.00 (0.20) | 4 (1.00) |"
    assert lines[7].startswith("| set | 90.00 (1 seed) |")
    assert lines[-1] == "A layer lost all of its weights: set at 90 %."


def test_every_method_is_trained_and_every_claim_can_be_judged():
    runs = list(baselines.EXPERIMENT.runs(0))
    assert {r.what for r in runs} == set(methods.names())
    trained = {(r.what, r.at) for r in runs}
    for claim in baselines.CLAIMS:
        assert {(what, at) for what in (claim.better, claim.worse) for at in claim.at} <= trained, claim
    pairs = [(claim.better, claim.worse, at) for claim in baselines.CLAIMS for at in claim.at]
    assert len(set(pairs)) == len(pairs)
    assert not [pair for pair in pairs if (pair[1], pair[0], pair[2]) in pairs]


def test_results_hold_the_orderings_and_a_picture(tmp_path):
    experiment = EXPERIMENTS["baselines"]
    folders = {}
    for r in experiment.runs(0):
        if r.what in ("rigl", "set", "dense"):
            folder = folders[r] = tmp_path / r.name
            folder.mkdir()
            summary: dict = dict.fromkeys(results.SUMMARY, 0.5) | {"train_seconds": 1, "sparsity_target": None}
            summary |= dict.fromkeys(("method", "model", "data", "backend"), r.what)
            summary |= dict.fromkeys(("nnz", "epochs", "seed", "prunable", "threads"), 1)
            summary |= {"peak_memory_bytes": 9, "peak_weight_bytes": 9}
            write_json(folder / "summary.json", summary | {"test_accuracy": 0.9 + 0.01 * (r.what == "rigl")})
            write_json(folder / "config.json", configure(epochs=1))
            epoch = {"test_accuracy": 0.5, "sparsity": 0.0, "layers": [], "cpu_seconds_per_step": 0.001}
            write_lines(folder / "metrics.jsonl", [epoch])
    text = results.write(tmp_path / "out", experiment, folders)
    assert "| rigl | set | holds: 91.00, 90.00 | RigL" in text
    assert Image.open(tmp_path / "out" / "figure.png").width > 500

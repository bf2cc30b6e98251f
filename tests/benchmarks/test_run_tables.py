"""Tables of training runs, of runs whose figures are known."""

from benchmarks import run_tables


def run(what: str, at: float | None, accuracy: float) -> dict:
    return {"what": what, "at": at, "test_accuracy": accuracy}


def test_accuracies_stand_beside_each_other_the_best_at_the_highest_sparsity_first() -> None:
    runs = [run("dense", None, 0.95), run("a", 0.9, 0.9), run("b", 0.9, 0.8), run("b", 0.9, 0.9), run("b", 0.98, 0.7)]
    assert run_tables.reached("What was done.", runs) == (
        "What was done. The dense network reaches 95.00.\n\n"
        "| test accuracy, % | 90 % | 98 % |\n"
        "| --- | ---: | ---: |\n"
        "| `b` | 85.00 ± 7.07 | 70.00 |\n"
        "| `a` | 90.00 |  |"
    )

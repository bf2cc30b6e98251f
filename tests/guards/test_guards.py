"""A share of the generated cases. `make fuzz` and `make kill` run others until one fails."""

import subprocess
import sys
from pathlib import Path

import pytest
from guards.guard import check_of, reproduction

# A guard, how many of its first cases run here, and in how many tests.
SHARES = {"layers": (400, 4), "indices": (60, 1), "training": (30, 3), "interrupts": (12, 1), "kills": (2, 2)}


def _share(name: str) -> list[range]:
    cases, tests = SHARES[name]
    return [range(cases)[i::tests] for i in range(tests)]


def _run(name: str, seeds: range) -> None:
    check = check_of(name)
    for seed in seeds:
        try:
            check(seed)
        except Exception as error:
            raise AssertionError(f"{error}\n{reproduction(name, seed)}") from error


@pytest.mark.parametrize(
    ("name", "seeds"), [pytest.param(name, seeds, id=f"{name}-{seeds[0]}") for name in SHARES for seeds in _share(name)]
)
def test_generated(name: str, seeds: range) -> None:
    if name == "kills":
        pytest.importorskip("torchvision")
        pytest.importorskip("safetensors")
    _run(name, seeds)


LARGE = ("googlenet", "inception")


def test_zoo() -> None:
    """Each family under one storage; another one for its neighbour."""
    pytest.importorskip("torchvision")
    from guards import zoo

    chosen = [name for name in zoo.MODELS if name not in LARGE]
    storages = list(zoo.METHODS)
    for i, name in enumerate(chosen):
        seed = zoo.CASES.index((name, storages[i % len(storages)]))
        _run("zoo", range(seed, seed + 1))


def test_a_case_that_fails_or_crashes_is_named(tmp_path: Path) -> None:
    """By the line that runs it again."""
    for harm, told in (("assert False, 'wrong'", "wrong"), ("os.abort()", "died of signal 6")):
        code = (
            "import os; from guards import guard\n"
            f"def check(seed):\n    if seed == 13: {harm}\n"
            "guard.check_of = lambda name: check\n"
            "assert guard.run('layers', 10, 50, None) == (3, True)\n"
            "assert guard.run('layers', 20, 50, None) == (50, False)\n"
        )
        tests = Path(__file__).parents[1]
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tests, check=False)
        assert result.returncode == 0, result.stderr
        assert told in result.stdout
        assert reproduction("layers", 13) in result.stdout

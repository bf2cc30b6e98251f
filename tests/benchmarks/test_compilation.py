"""The Triton kernels compile for cards that need not be there, fit them, and use their matrix units."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="comes with the CUDA build of PyTorch")
from benchmarks import compilation, launches
from sparsekern.ops import cuda

ROOT = Path(__file__).parents[1]


def test_every_kernel_compiles_for_every_card() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}  # which the tests of results switch on
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compilation"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [re.split(r"\s{2,}", line) for line in done.stdout.splitlines()[1:]]
    assert {row[0] for row in rows} == set(launches.LAUNCHES)
    assert {row[3] for row in rows} == {"80", "90", "100"}


def test_every_operator_is_compiled() -> None:
    assert set(cuda.TRITON) == {name.split(" ")[0] for name in launches.LAUNCHES}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shared": 200 << 10}, "204800 bytes of shared memory are more"),
        ({"spilled": 8}, "8 bytes of registers are spilled"),
        ({"matrix_units": False}, "no matrix units"),
    ],
)
def test_finds_faults(change: dict, message: str) -> None:
    row = {"arch": 80, "shared": 1024, "spilled": 0, "matrix_units": True}
    assert compilation.fault(row, matrix=True) == ""
    assert message in compilation.fault({**row, **change}, matrix=True)


def test_strict_products_are_not_made_by_matrix_units() -> None:
    row = {"arch": 100, "shared": 1024, "spilled": 0, "matrix_units": True}
    assert "strict products" in compilation.fault(row, matrix=True, strict=True)
    assert compilation.fault({**row, "matrix_units": False}, matrix=True, strict=True) == ""


def test_refuses_unknown_cases() -> None:
    with pytest.raises(SystemExit) as stopped:
        compilation.main(["--only", "nothing"])
    assert stopped.value.code == 2

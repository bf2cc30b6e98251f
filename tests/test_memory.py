"""Peak resident memory, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from sparsekern.ops import extension

TESTS = Path(__file__).parent


def added_bytes(workload: str) -> int:
    """The peak resident bytes that a workload of `memory_probe` adds to the imported package."""
    command = [sys.executable, "-W", "ignore", str(TESTS / "memory_probe.py"), workload]
    result = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent, env={"PYTHONPATH": "."})
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(extension is None, reason="the references expand the weight")
def test_a_layer_of_four_billion_weights_trains_within_three_quarters_of_a_gibibyte() -> None:
    assert added_bytes("huge_layer") <= 0.75 * 2**30


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(extension is None, reason="the references expand the weight")
@pytest.mark.parametrize("workload", ["huge_convolution", "gse_synflow", "gse_graest"])
def test_a_convolution_of_150_million_weights_trains_within_64_mebibytes(workload: str) -> None:
    assert added_bytes(workload) <= 64 * 2**20

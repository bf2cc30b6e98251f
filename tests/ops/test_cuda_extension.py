"""The CUDA C++ kernels as they were built: registered, for the cards that were asked for, without spills."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsekern.ops import backend, cuda, extension

ROOT = Path(__file__).parents[2]
REGISTERED = [
    name
    for path in sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    for name in re.findall(r"SPARSEKERN_REGISTER\((\w+)\)", path.read_text())
]
built = pytest.mark.skipif(backend.cuda_extension is None, reason="the CUDA kernels are not built")


def setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "setup.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


def cuobjdump(*options: str) -> str:
    triton = pytest.importorskip("triton", reason="brings cuobjdump")
    program = shutil.which("cuobjdump") or triton.knobs.nvidia.cuobjdump.path
    library = backend.cuda_extension.__file__
    return subprocess.run([program, *options, library], capture_output=True, text=True, check=True).stdout


def test_the_rest_runs_without_them() -> None:
    code = (
        "import sys; sys.modules['sparsekern._CUDA'] = None; import sparsekern as sk; from sparsekern.cli import info; "
    )
    code += "print(sk.ops.backend.cuda_extension, sk.SparseLinear(9, 8, sparsity=0.5)); print(info.facts())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("None SparseLinear")
    assert "CUDA kernels: not built" in re.sub(r"  +", ": ", done.stdout) or extension is None
    assert "without its CUDA" not in done.stderr


@built
@pytest.mark.parametrize("name", REGISTERED)
def test_cuda_tensors_are_dispatched_to_them(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"sparsekern::{name}", "CUDA")
    assert name not in cuda.TRITON, "two kernels of one operator"


def test_every_operator_has_a_file() -> None:
    assert REGISTERED == ["compress", "guided_sample", "random_subset", "rewire", "sampled_gradient"]
    assert all((ROOT / "csrc" / "cuda" / f"{name}.cu").exists() for name in REGISTERED)


@built
def test_code_for_every_card() -> None:
    wanted = backend.cuda_extension.architectures.replace(".", "").split(";")
    cubins = set(re.findall(r"\.sm_(\d+)\w*\.cubin", cuobjdump("--list-elf")))
    assert cubins == {architecture.removesuffix("+PTX") for architecture in wanted}
    ptx = set(re.findall(r"\.sm_(\d+)\w*\.ptx", cuobjdump("--list-ptx"))) if "+PTX" in wanted[-1] else set()
    assert ptx == {architecture.removesuffix("+PTX") for architecture in wanted if "+PTX" in architecture}


@built
def test_no_registers_are_spilled() -> None:
    used = re.findall(r"Function (\S+):\s+REG:\d+ STACK:(\d+).*?LOCAL:(\d+)", cuobjdump("--dump-resource-usage"))
    ours = [row for row in used if "run_each" in row[0] or "run_sums" in row[0]]
    assert len(ours) > 30
    assert not [row for row in ours if (row[1], row[2]) != ("0", "0")]


def test_build_says_what_is_missing() -> None:
    nowhere = {"CUDA_HOME": "/nowhere", "CUDA_PATH": "/nowhere"}
    forced = setup("--name", SPARSEKERN_CUDA="1", **nowhere)
    assert forced.returncode == 1
    assert "SPARSEKERN_CUDA=1: " in forced.stderr
    tolerated = setup("--name", SPARSEKERN_CUDA="", **nowhere)
    assert tolerated.returncode == 0, tolerated.stderr
    (line,) = [line for line in tolerated.stderr.splitlines() if line.startswith("sparsekern: ")]
    assert line.endswith(", without CUDA C++ kernels")

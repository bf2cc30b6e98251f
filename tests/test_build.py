"""What was built, and what a distribution contains."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sparsekern
from sparsekern.cli import info
from sparsekern.ops import backend, extension

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sparsekern"


def run(*command: str, **options) -> subprocess.CompletedProcess:
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_instruction_set_is_chosen(isa: str) -> None:
    assert isa == (extension.isa() if extension else "fallback")


def test_facts(threads: Callable[[int], None]) -> None:
    if extension is None:
        return
    assert extension.isas()[-1] == "generic"
    assert tuple(int(part) for part in extension.torch_version.split(".")[:2]) >= (2, 11)
    assert extension.compiler
    for n in (1, 2):
        threads(n)
        assert extension.threads() == n
    with pytest.raises(ValueError, match="cannot run instruction set 'sse9'"):
        extension._set_isa("sse9")


def test_runs_without_compiled_kernels() -> None:
    """One warning says so, unless that is how it was asked for."""
    code = "import sys; sys.modules['sparsekern._C'] = None; import sparsekern as sk, torch; print(sk.ops.extension, "
    code += "sk.ops.kth_largest([torch.tensor([1.0, -3.0, 2.0])], 1, True))"
    environment = {key: value for key, value in os.environ.items() if key != "SPARSEKERN_CPP"}
    for switch, warnings in (({}, 1), ({"SPARSEKERN_CPP": "0"}, 0)):
        result = run(sys.executable, "-W", "always", "-c", code, env=environment | switch, cwd=ROOT)
        assert result.stdout.split("\n")[-2] == "None tensor(3.)"
        assert result.stderr.count("sparsekern runs on plain PyTorch") == warnings


@pytest.mark.skipif(extension is None, reason="no compiled kernels")
def test_info_says_what_is_compiled_and_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "autograd_extension", None)
    assert "in Python; not compiled" in info.facts()
    monkeypatch.setattr(torch, "__version__", "2.99.1")
    assert f"in Python; compiled for torch {extension.torch_version} only" in info.facts()
    monkeypatch.setattr(info, "extension", None)
    monkeypatch.setattr(backend, "missing", "undefined symbol: x")
    assert "none, plain PyTorch is slower: undefined symbol: x" in info.facts()


def test_source_distribution_is_complete(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "sdist", "-d", str(tmp_path)]
    run(*command, cwd=ROOT, env=os.environ | {"SPARSEKERN_CPP": "0"})
    name = f"sparsekern-{sparsekern.__version__}"
    with tarfile.open(tmp_path / f"{name}.tar.gz") as archive:
        contents = {member.removeprefix(f"{name}/") for member in archive.getnames()}
    kept = [*(ROOT / "csrc").rglob("*.[ch]*"), *PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.json")]
    assert {"LICENSE", "README.md", "setup.py", "pyproject.toml"} <= contents
    assert {str(path.relative_to(ROOT)) for path in kept} <= contents


def test_vector_code_stays_apart() -> None:
    """Objects built for an instruction set define no weak symbols: the linker could give those to the generic path."""
    for path in (ROOT / "build").glob("temp*/csrc/cpu/simd/*.o"):
        weak = [line for line in run("nm", "--defined-only", str(path)).stdout.splitlines() if line[17:18] in "WVuwv"]
        assert not weak, (path.name, weak)
